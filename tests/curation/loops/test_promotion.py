"""The gate of a loop: conditions are parsed, and compared with numbers and with the last checkpoint."""

from __future__ import annotations

import pytest

from curation.errors import Refused
from curation.loops.promotion import check_gate, parse_condition


@pytest.mark.parametrize("text", ["", "psnr", "psnr>30", "psnr>=", "psnr>=last+1", "1>=2", "a>=b"])
def test_a_text_that_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="is not a condition of a gate"):
        parse_condition(text)


@pytest.mark.parametrize(
    ("condition", "metrics", "last", "passed"),
    [
        ("psnr>=30", {"psnr": 30.0}, None, True),
        ("psnr >= 30", {"psnr": 29.9}, None, False),
        ("psnr>=30", {}, None, False),
        ("alpha_mse<=last", {"alpha_mse": 0.2}, {"alpha_mse": 0.2}, True),
        ("alpha_mse<=last", {"alpha_mse": 0.21}, {"alpha_mse": 0.2}, False),
        ("alpha_mse<=last*1.05", {"alpha_mse": 0.205}, {"alpha_mse": 0.2}, True),
        ("alpha_mse<=last", {"alpha_mse": 0.5}, None, True),
        ("alpha_mse<=last", {"alpha_mse": 0.5}, {}, True),
        ("alpha_mse<=last", {}, None, False),
        ("harm>=-1.5", {"harm": -1.0}, None, True),
    ],
)
def test_conditions_are_evaluated(
    condition: str, metrics: dict[str, float], last: dict[str, float] | None, passed: bool
) -> None:
    [result] = check_gate([condition], metrics, last)
    assert result.passed is passed
