"""docs/remedies.md says what the tables of remedies say."""

import runpy
from pathlib import Path

from gradiometer.records.diagnosis import KINDS
from gradiometer.remedies.catalogue import REMEDIES, find
from gradiometer.remedies.choice import ANYWAY, FURTHER, PLANS, parsed

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_is_up_to_date(golden):
    """Written anew by ``python docs/generate_remedies.py`` as well as by ``--update-golden``."""
    page = runpy.run_path(str(DOCS / "generate_remedies.py"))["page"]()
    golden("../../docs/remedies.md", page)
    assert all(f"### `{remedy.name}`" in page for remedy in REMEDIES)


def test_names_are_their_own_and_kinds_are_known():
    names = [remedy.name for remedy in REMEDIES]
    assert len(names) == len(set(names))
    for remedy in REMEDIES:
        assert remedy.treats, remedy.name
        assert set(remedy.treats) <= set(KINDS), remedy.name
        assert remedy.source
        assert remedy.model or remedy.recipe


def test_every_kind_has_a_plan_of_remedies_that_there_are():
    assert set(PLANS) == set(KINDS)
    for plan in (*PLANS.values(), ANYWAY, FURTHER):
        for names in parsed(plan):
            assert [find(name).name for name in names] == list(names)
