"""The JSON Schema of a record, generated from its classes."""

from typing import Any

from runner.record.model import Record


def record_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a record."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Record.model_json_schema(mode="serialization"),
    }
