"""The one error that is the user's to mend."""


class InputError(ValueError):
    """Bad input: one sentence that says what is wrong, where, and what would be right.

    The command line prints the sentence and exits with code 2; nothing already computed is lost.
    """


def nearest(word: str, known: list[str]) -> str:
    """A ready-made ending for "unknown ..." sentences: the closest known word, or all of them."""
    import difflib

    match = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if match:
        return f"did you mean {match[0]!r}?"
    return "known: " + ", ".join(sorted(known))
