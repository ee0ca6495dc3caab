from pathlib import Path

from strongbox import reference
from strongbox.cluster import ROLES

PROJECT = Path(__file__).resolve().parents[2]


def test_the_settings_page_is_the_one_that_the_declarations_give() -> None:
    page = (PROJECT / "docs" / "settings.md").read_text()
    assert page == reference.markdown(), "strongbox settings --markdown >docs/settings.md"


def test_every_setting_says_what_it_means() -> None:
    for row in reference.rows():
        assert len(row.meaning) > 10, row.key
    assert len(reference.rows()) == sum(len(role.model_fields) for role in ROLES)


def test_files_that_the_pages_name_exist() -> None:
    import re

    for page in [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
