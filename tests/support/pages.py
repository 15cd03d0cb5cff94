"""The pages of documentation, as text."""

from __future__ import annotations

from testbed.processes import ROOT

#: Every page, by its path from the root: those for readers, not those of the tools.
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
}
