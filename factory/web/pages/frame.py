"""What every page shares: the blueprint, the frame around a page, and sign-in."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from apiflask import APIBlueprint
from flask import current_app, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import datasets, tokens
from factory.errors import FieldError, Invalid, Unauthorized
from factory.web import auth, paging
from factory.web.pages import words
from factory.web.paging import RowT

pages = APIBlueprint("pages", __name__, enable_openapi=False)

NAVIGATION = (
    ("overview", "pages.overview", "Overview"),
    ("jobs", "pages.jobs_list", "Jobs"),
    ("samples", "pages.samples_list", "Samples"),
    ("review", "pages.review", "Review"),
    ("experiments", "pages.experiments_list", "Experiments"),
    ("models", "pages.models_list", "Models"),
    ("settings", "pages.settings", "Settings"),
)
SECTIONS = {  # module of a view → its place in the navigation
    "overview": "overview",
    "dataset": "overview",
    "evaluation": "overview",
    "compare": "jobs",
    "job": "jobs",
    "job_form": "jobs",
    "playground": "jobs",
    "sample": "samples",
    "map": "samples",
    "review": "review",
    "experiment": "experiments",
    "model": "models",
    "settings": "settings",
}
MENU = 50  # datasets in the menu
OPEN = ("pages.login", "pages.send_login")  # endpoints that need no sign-in


@dataclass(frozen=True)
class Frame:
    """What stands around a page."""

    user: str
    section: str
    datasets: tuple[str, ...]
    dataset: str | None


def page(session: Session, template: str, *, status: int = 200, **values: Any) -> tuple[str, int]:
    """A whole page. `dataset` among the values is the one that the frame names."""
    shown = values.get("dataset")
    names = [row.name for row in datasets.list_all(session, limit=MENU)]
    if shown and shown.name not in names:
        names.append(shown.name)
    frame = Frame(
        user=tokens.live(session, g.token_id).name,
        section=_section(),
        datasets=tuple(names),
        dataset=shown.name if shown else None,
    )
    return render_template(template, frame=frame, **values), status


def paged(
    find: Callable[[uuid.UUID | None, int], Sequence[RowT]], size: int
) -> tuple[Sequence[RowT], str | None]:
    """The rows of the page that the address asks for, and the cursor of the next one. `find`
    takes the id that they come after, and how many."""
    cursor = request.args.get("cursor")
    return paging.cut(find(paging.decode(cursor) if cursor else None, size + 1), size)


@pages.before_request
def sign_in() -> ResponseReturnValue | None:
    """Ask for a login where there is none; pages never show a bare 401."""
    _refuse_nul()
    if request.endpoint in OPEN:
        return None
    try:
        auth.required()
    except Unauthorized:
        return _to_login()
    return None


@pages.app_context_processor
def _constants() -> dict[str, Any]:
    return {"NAVIGATION": NAVIGATION, "SAMPLE_STATES": words.SAMPLE_STATES}


for name, function in words.FILTERS.items():
    pages.add_app_template_filter(function, name)


def _refuse_nul() -> None:
    for values in (request.args, request.form):
        for name, value in values.items(multi=True):
            if "\x00" in name or "\x00" in value:
                reason = FieldError(name.replace("\x00", ""), "holds a NUL character")
                raise Invalid("A field cannot be used.", [reason])


def _section() -> str:
    view = current_app.view_functions[request.endpoint or ""]
    return SECTIONS[view.__module__.rpartition(".")[2]]


def _to_login() -> ResponseReturnValue:
    back = request.full_path.rstrip("?") if request.method == "GET" else None
    if "HX-Request" in request.headers:
        return "", 401, {"HX-Redirect": url_for("pages.login")}
    return redirect(url_for("pages.login", next=back), 303)
