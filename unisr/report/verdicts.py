"""Words of a computed verdict on a claim of a paper."""

SUPPORTED, REFUSED, UNDECIDED = "supported", "not supported", "undecided at this scale"
