"""Metrics for Prometheus: of this process, and of the instance."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from curation.api.auth import get_app_context
from curation.errors import NotFound, Refused
from curation.runtime.metrics import CONTENT_TYPE, is_metrics_token, render_metrics

router = APIRouter(include_in_schema=False)


class WrongMetricsToken(Refused):
    """The request has no metrics token, or a wrong one."""


@router.get("/metrics")
def get_metrics(request: Request) -> Response:
    """Return all metrics as text. The request needs `Authorization: Bearer TOKEN`."""
    settings = get_app_context(request).settings
    if settings.metrics_token is None:
        raise NotFound("metrics are off", "set LAYERLOOP_METRICS_TOKEN to serve them")
    if not is_metrics_token(settings, request.headers.get("authorization", "")):
        raise WrongMetricsToken(
            "this is not the metrics token", "send 'Authorization: Bearer' and the token"
        )
    return Response(render_metrics(request.app.state.metrics), media_type=CONTENT_TYPE)
