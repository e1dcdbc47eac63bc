"""docs/findings.md says what the rules say."""

import runpy
from pathlib import Path

from gradiometer.rules import RULES

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_is_up_to_date(golden):
    """Written anew by ``python docs/generate_findings.py`` as well as by ``--update-golden``."""
    page = runpy.run_path(str(DOCS / "generate_findings.py"))["page"]()
    golden("../../docs/findings.md", page)
    for rule in RULES:
        assert f"### `{rule.kind}`" in page
        assert f"(#{rule.kind})" in page
        assert all(f"- {case.name}\n" in page for case in (*rule.sick, *rule.healthy))
    assert "- `CRITICAL = -3.0`: Decades between first and last layer" in page
