"""Fields of records become slices; what is no date or no label is refused without being quoted."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinprompt.errors import CorpusError, TaskError
from clinprompt.records import Record
from clinprompt.upkeep.slices import slice_records, with_fields


def records(*values: Any, field: str = "date") -> list[Record]:
    return [Record(f"r{i}", "text", meta={} if v is None else {field: v}) for i, v in enumerate(values)]


@pytest.mark.parametrize(
    ("by", "names", "places"),
    [
        ("year", ("2019", "2021"), (2019.0, 2021.0)),
        ("quarter", ("2019-Q1", "2019-Q4", "2021-Q2"), (8076.0, 8079.0, 8085.0)),
        ("month", ("2019-03", "2019-12", "2021-04"), (24230.0, 24239.0, 24255.0)),
    ],
)
def test_dates_in_all_forms(by: str, names: tuple[str, ...], places: tuple[float, ...]) -> None:
    found = slice_records(
        records("2021-04-30", date(2019, 3, 31), datetime(2019, 12, 1, 8), None, "2019-03", "2019-12-01T08:00:00"), by
    )
    assert found.names == names and found.places == places
    assert found.missing == 1 and found.labels[3] is None and found.labels[0] == names[-1]


@given(st.dates(min_value=date(1000, 1, 1)))
def test_a_date_lies_in_its_quarter_and_month(day: date) -> None:
    iso = records(day.isoformat())
    assert slice_records(iso, "month").names == (f"{day.year:04d}-{day.month:02d}",)
    assert slice_records(iso, "quarter").names == (f"{day.year:04d}-Q{(day.month + 2) // 3}",)


def test_years_and_other_forms() -> None:
    assert slice_records(records("2019", 2020, 2021.0), "year").names == ("2019", "2020", "2021")
    seen = records("31.03.2019", "01.02.2020", field="seen")
    assert slice_records(seen, "year", date_field="seen", date_format="%d.%m.%Y").names == ("2019", "2020")
    assert slice_records(records("2019", "2018", field="year"), "year").places == (2018.0, 2019.0)


def test_labels_and_their_order() -> None:
    sites = slice_records(records("ward B", "ward A", None, field="site"), "site")
    assert sites.names == ("ward A", "ward B") and sites.places == () and sites.missing == 1
    assert slice_records(records(10, "9", 9.5, field="version"), "version").names == ("9", "9.5", "10")
    assert slice_records([Record("a", "t", group="p1"), Record("b", "t")], "group").names == ("p1",)
    assert slice_records(records({"ward": "x"}, field="tags"), "tags.ward").names == ("x",)


def test_refusals_quote_no_value() -> None:
    secret = "patient seen in clinic, has fever"
    with pytest.raises(TaskError, match=r"record r1: the field `date` is not a date.*--date-format") as caught:
        slice_records(records("2019-01-01", secret), "month")
    assert "fever" not in str(caught.value)
    with pytest.raises(TaskError, match="record r0: the field `note` holds no label") as caught:
        slice_records(records(secret * 3, field="note"), "note")
    assert "fever" not in str(caught.value)
    with pytest.raises(TaskError, match=r"unknown field 'sight'. Did you mean 'site'"):
        slice_records(records("a", field="site"), "sight")
    with pytest.raises(TaskError, match="61 different values"):
        slice_records(records(*(f"s{i}" for i in range(61)), field="site"), "site")
    with pytest.raises(TaskError, match="belong to --by year"):
        slice_records(records("a", field="site"), "site", date_field="seen")
    with pytest.raises(TaskError, match="not a date that has a month"):
        slice_records(records("2019"), "month")


def test_fields_from_a_table(tmp_path: Path) -> None:
    table = tmp_path / "sites.csv"
    table.write_text("id,site\nr0,ward A\nr2,ward B\nother,ward C\n")
    found = with_fields(records("2019", "2020", "2021"), table, ["site"])
    assert [r.meta.get("site") for r in found] == ["ward A", None, "ward B"]
    assert found[0].meta["date"] == "2019"
    with pytest.raises(CorpusError, match="no value of its column `id`"):
        with_fields([Record("x", "t")], table, ["site"])
    with pytest.raises(CorpusError, match="there is no column 'ward'"):
        with_fields(records("2019"), table, ["ward"])
