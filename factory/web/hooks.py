"""Label Studio's webhook. Its events are hints: they are stored, and the answer is given at once;
a worker fetches the annotations themselves."""

import hmac

from apiflask import APIBlueprint
from flask import request

from factory import reviews
from factory.errors import FieldError, Invalid, Unauthorized
from factory.web import inputs
from factory.web.state import current

EVENT = {
    "required": True,
    "content": {"application/json": {"schema": {"type": "object"}}},
}

routes = APIBlueprint("webhooks", __name__)


@routes.post("/webhooks/label-studio")
@routes.output({}, status_code=204)
@routes.doc(security="webhook", extensions={"requestBody": EVENT})
def label_studio() -> tuple[str, int]:
    """Take note of an event. Needs `Authorization: Bearer <FACTORY_WEBHOOK_SECRET>`."""
    _check_secret()
    payload = inputs.read_json(request)
    if not isinstance(payload, dict):
        raise Invalid("An event is a JSON object.", [FieldError("", "is not an object")])
    with current().db.transaction() as session:
        reviews.record_event(session, payload)
    return "", 204


def _check_secret() -> None:
    """Takes equally long whatever is wrong. Without a secret in the settings nothing passes."""
    expected = f"Bearer {current().settings.webhook_secret}".encode()
    given = request.headers.get("Authorization", "").encode()
    same = hmac.compare_digest(given, expected)
    if not (same and current().settings.webhook_secret):
        raise Unauthorized("The webhook's secret is missing or wrong (FACTORY_WEBHOOK_SECRET).")
