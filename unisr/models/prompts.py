"""The wording of GenSR's prompts: five text segments around four slots, one wording per task (Eq. 9).

Slots in order: filtered CF history, filtered semantic history, candidate's CF vector, candidate's semantic vector.
The query, where the prompt has one, stands before the first segment. The papers' exact sentences are not public
as text; `paper` has their content and about their length (118 positions), `concise` says the same in 26.
"""

from __future__ import annotations

from typing import Literal

from unisr.registry import TaskName

Wording = Literal["concise", "paper", "released"]
Segments = tuple[str, str, str, str, str]

_PAPER_HISTORY = (
    "# question : a user has interacted with the following items on this platform in the past , in order of time . "
    "the collaborative features of these items are :",
    "and the semantic features , taken from the texts of the same items , are :",
)
_PAPER_ITEM = (
    "using all of the information above , about what the user has chosen before and what these items are , "
    "please predict whether the user would {decision} the following item . "
    "the collaborative feature of the candidate item is :",
    "and its semantic feature is :",
)
_PAPER_END = "answer with yes or no and with nothing else . {reason} # answer :"

WORDINGS: dict[Wording, dict[TaskName, Segments]] = {
    "concise": {
        "rec": ("recommend . history by taste :", "by content :", "candidate by taste :", "by content :",
                "would the user enjoy it ? yes or no :"),
        "src": ("is searched . history by taste :", "by content :", "candidate by taste :", "by content :",
                "does it answer the query ? yes or no :"),
    },
    "paper": {
        "rec": (*_PAPER_HISTORY, _PAPER_ITEM[0].format(decision="enjoy"), _PAPER_ITEM[1],
                _PAPER_END.format(reason="base the answer on the interests of the user .")),
        "src": ("is the query . " + _PAPER_HISTORY[0], _PAPER_HISTORY[1], _PAPER_ITEM[0].format(decision="click"),
                _PAPER_ITEM[1], _PAPER_END.format(reason="base the answer on the query above .")),
    },
    # The released code drops the sentence that asks the question, says the tail twice with its placeholders
    # unfilled, and announces titles where CF vectors stand; its two tasks differ in the tail alone.
    "released": {
        "rec": ("# question : a user has rated some items highly . their titles :", "and their semantic features :",
                "the item < id > by title : answer yes or no . # answer :", "and its feature :",
                "answer yes or no . # answer :"),
        "src": ("# question : a user has rated some items highly . their titles :", "and their semantic features :",
                "the item < id > by title : decide by the query < query > . answer yes or no . # answer :",
                "and its feature :", "decide by the query < query > . answer yes or no . # answer :"),
    },
}  # fmt: skip


def prompt_texts() -> list[str]:
    """Every segment of every wording, for training a tokenizer."""
    return [segment for wording in WORDINGS.values() for task in wording.values() for segment in task]
