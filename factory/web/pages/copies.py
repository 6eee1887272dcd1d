"""The same job as a YAML file and as a curl call, to copy."""

import json
import shlex
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True)
class Copies:
    """One job, for a file and for a shell."""

    yaml: str
    curl: str


def of_spec(spec: dict[str, Any], host_url: str) -> Copies:
    """Both forms of a job spec; the token stays in the reader's own environment."""
    body = json.dumps(spec, ensure_ascii=False)
    curl = (
        f"curl {shlex.quote(host_url.rstrip('/') + '/api/v1/jobs')} \\\n"
        '  -H "Authorization: Bearer $FACTORY_TOKEN" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d {shlex.quote(body)}\n"
    )
    return Copies(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True), curl)
