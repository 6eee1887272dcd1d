"""The one tree of errors. Standard library only.

    FactoryError                    what we raise on purpose
    ├── Invalid                     input is wrong; the sender can mend it
    │   ├── TooLarge                more than a limit allows
    │   ├── Malformed               cannot be read at all
    │   └── UnsupportedType         is of another media type
    ├── Unauthorized                no token, or not a live one
    ├── Forbidden                   not allowed in this way
    │   └── OverBudget              more than a day's budget allows
    ├── NotFound                    no such thing
    ├── Conflict                    clashes with what is there
    ├── Unavailable (retryable)     a service we need does not answer
    │   ├── DatabaseUnavailable (retryable)  Postgres does not answer, or cannot take it now
    │   └── HeldBack (retryable)    was not asked: it failed before and is given time
    ├── LeaseLost                   another worker owns the shard now
    ├── Stopped                     the job was paused or cancelled, or the worker is stopping
    ├── TryAgain                    the shard can be gone on with at once, in another way
    ├── StackError                  a part of the embedded stack does not start
    └── DecodingError               the models cannot make this text
        ├── ModelError              a model cannot be loaded or used
        ├── PromptError             a prompt cannot be decoded from
        └── NumericalError          logits are NaN or infinite

`retryable` says whether the same call may succeed later without any change.
`status` is the HTTP status that the API answers with (RFC 9457).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class FieldError:
    """One thing that is wrong with one field of the input."""

    field: str
    reason: str


class FactoryError(Exception):
    """Base of all our errors. `detail` says what, where and how to mend."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)


class Invalid(FactoryError):
    """The input is wrong."""

    status = 422
    title = "The input is not valid"


class TooLarge(Invalid):
    """The input is more than a limit allows."""

    status = 413
    title = "The input is too large"


class Malformed(Invalid):
    """The input cannot be read at all."""

    status = 400
    title = "The input cannot be read"


class UnsupportedType(Invalid):
    """The input is of a media type that is not taken here."""

    status = 415
    title = "The media type is not supported"


class Unauthorized(FactoryError):
    """No token, or not a live one."""

    status = 401
    title = "A valid token is needed"


class Forbidden(FactoryError):
    """The caller is known, but the call is not allowed in this way."""

    status = 403
    title = "Not allowed"


class OverBudget(Forbidden):
    """More is asked for than is left of a day's budget."""

    title = "The budget is spent"

    def __init__(self, detail: str, retry_after: float = 0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after
        """Seconds until the next day."""


class NotFound(FactoryError):
    """There is no such thing."""

    status = 404
    title = "Not found"


class Conflict(FactoryError):
    """The call clashes with what is there already."""

    status = 409
    title = "This clashes with what exists"


class Unavailable(FactoryError):
    """A service that is needed does not answer."""

    status = 503
    title = "A service is not available"
    retryable = True

    def __init__(
        self,
        detail: str,
        errors: Sequence[FieldError] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail, errors)
        self.retry_after = retry_after
        """Seconds that the service asked to be left alone."""


class DatabaseUnavailable(Unavailable):
    """Postgres cannot be reached, or cannot take this now."""


class HeldBack(Unavailable):
    """The service failed again and again: it is given time and was not asked now."""


class LeaseLost(FactoryError):
    """The shard is leased by another worker now."""

    title = "The lease on the shard is lost"


class Stopped(FactoryError):
    """The work was stopped on purpose and can go on later."""

    title = "The work was stopped"


class TryAgain(FactoryError):
    """The shard can be gone on with at once, in another way. Says which."""

    title = "The work goes on in another way"


class StackError(FactoryError):
    """A part of the embedded stack cannot be installed or started."""

    title = "The local stack does not run"


class DecodingError(FactoryError):
    """The models cannot make this text."""

    status = 422
    title = "The text cannot be made"


class ModelError(DecodingError):
    """A model cannot be loaded, or its parts do not fit together."""

    title = "The model cannot be used"


class PromptError(DecodingError):
    """A prompt is empty, too long, or holds ids outside the vocabulary."""

    title = "The prompt cannot be used"


class NumericalError(DecodingError):
    """A model returned NaN or infinite logits."""

    title = "The model returned unusable numbers"
