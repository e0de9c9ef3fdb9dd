"""Health of the API for supervisors and load balancers, without a session."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from curation import __version__
from curation.runtime.health import Readiness, is_ready

router = APIRouter(prefix="/api", tags=["health"])


class Health(BaseModel):
    """The status and the version of the API."""

    status: str
    version: str


class Ready(BaseModel):
    """Whether the API can work, and for each server that it needs "ok" or the problem."""

    status: str
    parts: dict[str, str]


@router.get("/health", summary="Check the API")
async def health() -> Health:
    """Return the status and the version of the API; the same as /api/live."""
    return Health(status="ok", version=__version__)


@router.get("/live", summary="Check that the process answers")
async def live() -> Health:
    """Return the version, also while the database or another server is unreachable.

    Restart the process if this fails.
    """
    return Health(status="ok", version=__version__)


@router.get(
    "/ready",
    summary="Check that the API can work",
    responses={503: {"model": Ready, "description": "A server that the API needs is unreachable."}},
)
def ready(request: Request, response: Response) -> Ready:
    """Return whether database, object store and queue answer; 503 if one of them does not.

    Send no requests to this process while this fails. The log has the details.
    """
    readiness: Readiness = request.app.state.readiness
    parts = readiness.check()
    if not is_ready(parts):
        response.status_code = 503
        response.headers["retry-after"] = "5"
    return Ready(status="ok" if is_ready(parts) else "unavailable", parts=parts)
