"""What every answer of the cluster API has: JSON with a reason when it is a refusal, and an id (zero link 4.2, 4.3)."""

import json
import sqlite3
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from pomerium_agent.errors import SettingsError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ApiError(Exception):
    """An answer that is not the one asked for. The text goes to the caller (zero link 4.2, ErrorResponse)."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)


async def json_object(request: web.Request) -> dict[str, object]:
    """The body of a request, or ApiError."""
    try:
        body = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError) as error:
        raise ApiError(400, "the body is not JSON") from error
    if not isinstance(body, dict):
        raise ApiError(400, "the body is not a JSON object")
    return body


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every answer has an id that its caller can name; every refusal is JSON with its reason (Z-13)."""
    response_id = uuid.uuid4().hex
    try:
        response = await handler(request)
    except ApiError as error:
        response = web.json_response({"error": error.text}, status=error.status, headers=error.headers)
    except web.HTTPException as error:  # no such path, wrong method, body too large
        response = web.json_response({"error": error.reason}, status=error.status)
    except (sqlite3.Error, SettingsError) as error:  # the disk, or the key file
        log.error("request failed", path=request.path, response_id=response_id, reason=str(error))
        response = web.json_response({"error": "the console cannot use its own database"}, status=500)
    response.headers["X-Response-Id"] = response_id
    return response
