"""The pages' templates and static files: where they are, and the pages made from them.

Nothing else knows where views/ and static/ are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bottle

from spyglass import formats
from spyglass.web.http import problems
from spyglass.web.http.response import HTML, Response, problem_response

_HERE = Path(__file__).resolve().parent
#: An installation has them beside this file, a checkout at its top.
_TOP = _HERE if (_HERE / "views").is_dir() else _HERE.parents[1]
#: Folders of the templates, and of the other files that browsers load.
VIEWS, STATIC = _TOP / "views", _TOP / "static"


def page(name: str, **variables: Any) -> str:
    """A page from views/."""
    text: str = bottle.template(name, template_lookup=[str(VIEWS)], **variables)
    return text


def upload_page(
    max_upload: int, answer: object = None, error: object = None, name: str = ""
) -> str:
    """The upload page; with an answer or an error after a form that was sent without JavaScript."""
    accept = ",".join(formats.MIME_TYPES.values())
    shown = {"answer": answer, "error": error, "picture_name": name}
    return page("index", max_upload=max_upload, accept=accept, **shown)


def error_response(status: int, html: bool) -> Response:
    """The response to a request that no route answered: a page, or a problem for programs."""
    problem = problems.for_status(status)
    response = problem_response(problem)
    if html:
        response.body = page("error", **problem.document()).encode()
        response.content_type = HTML
    return response
