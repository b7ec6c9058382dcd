"""What is wrong with a field, in plain words: one table from the validator's own kinds of error to ours, and numbers people can read.

Source of the kinds: https://docs.pydantic.dev/latest/errors/validation_errors/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: Kind of error → what to say; in braces what the validator tells with it.
WORDS: Final[Mapping[str, str]] = {
    "missing": "It is needed.",
    "extra_forbidden": "There is no such field here.",
    "model_attributes_type": "Must be an object.",
    "model_type": "Must be an object.",
    "dict_type": "Must be an object.",
    "list_type": "Must be a list.",
    "string_type": "Must be text.",
    "bool_type": "Must be true or false.",
    "bool_parsing": "Must be true or false.",
    "int_type": "Must be a whole number.",
    "int_parsing": "Must be a whole number.",
    "int_parsing_size": "The number is too large.",
    "int_from_float": "Must be a whole number.",
    "float_type": "Must be a number.",
    "float_parsing": "Must be a number.",
    "finite_number": "Must be a finite number.",
    "decimal_type": "Must be a number.",
    "decimal_parsing": "Must be a number.",
    "decimal_max_digits": "At most {max_digits} digits.",
    "decimal_max_places": "At most {decimal_places} decimals.",
    "decimal_whole_digits": "At most {whole_digits} digits before the point.",
    "greater_than": "Must be above {gt}.",
    "greater_than_equal": "Must be at least {ge}.",
    "less_than": "Must be below {lt}.",
    "less_than_equal": "Must be at most {le}.",
    "string_too_short": "At least {min_length} characters.",
    "string_too_long": "At most {max_length} characters.",
    "string_unicode": "Must be text in UTF-8.",
    "too_short": "At least {min_length}, not {actual_length}.",
    "too_long": "At most {max_length}.",
    "literal_error": "Must be {expected}.",
    "enum": "Must be {expected}.",
    "datetime_type": "Must be a time such as 2027-06-30T00:00:00Z.",
    "datetime_parsing": "Must be a time such as 2027-06-30T00:00:00Z.",
    "datetime_from_date_parsing": "Must be a time such as 2027-06-30T00:00:00Z.",
    "datetime_object_invalid": "Must be a time such as 2027-06-30T00:00:00Z.",
    "timezone_aware": "The time needs its zone, such as Z for UTC.",
    "value_error": "{error}",
}
OTHERWISE: Final = "It cannot be used."
#: One of something is not several of them.
SINGULAR: Final[Mapping[str, str]] = {
    "At least 1 characters.": "May not be empty.",
    "At least 1, not 0.": "May not be empty.",
    "At most 1 characters.": "At most 1 character.",
}


def plain(kind: str, context: Mapping[str, Any]) -> str:
    """One or two sentences about a field."""
    try:
        said = WORDS.get(kind, OTHERWISE).format_map(context)
    except KeyError:
        said = OTHERWISE
    return SINGULAR.get(said, said)


def size(number: int) -> str:
    """A size in bytes as people say it: `10 MiB`, `10.5 MiB`, `300 bytes`."""
    for unit, factor in (("MiB", 1024 * 1024), ("KiB", 1024)):
        if number >= factor:
            return f"{number / factor:.1f}".removesuffix(".0") + f" {unit}"
    return f"{number} bytes"
