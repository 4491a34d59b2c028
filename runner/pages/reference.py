"""The pages of reference: measurements, probes, and the record's JSON Schema in words. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.pages.site import Page, Site, plain_page
from runner.record.schema import record_schema
from runner.vocabulary import METRICS, PROBES


@dataclass(frozen=True)
class SchemaField:
    """One field: its name, its type in words, and whether it is always there."""

    name: str
    type: str
    required: bool


@dataclass(frozen=True)
class SchemaModel:
    """One model of the schema. `about` is its first sentence; `values` are those of an enumeration."""

    name: str
    about: str
    fields: tuple[SchemaField, ...]
    values: tuple[str, ...]


def reference_pages(site: Site, options: Mapping[str, Sequence[Mapping[str, object]]]) -> dict[str, Page]:
    """Measurements, probes and the record's schema."""
    emitted_by = {name: [probe for probe, info in PROBES.items() if name in info.emits] for name in METRICS}
    values: tuple[tuple[str, Mapping[str, object], str], ...] = (
        ("measurements", {"metrics": METRICS, "emitted_by": emitted_by}, "runner/vocabulary/__init__.py"),
        ("probes", {"probes": PROBES, "options": options}, "runner/vocabulary/__init__.py"),
        ("record", {"models": schema_models(record_schema())}, "runner/record/model.py"),
    )
    pages: dict[str, Page] = {}
    for name, shown, source in values:
        path, template = f"reference/{name}.md", f"{name}.md.j2"
        pages[path] = Page(site.fill(template, shown, plain=False), source)
        pages |= plain_page(path, site.fill(template, shown, plain=True))
    return pages


def schema_models(schema: Mapping[str, Any]) -> tuple[SchemaModel, ...]:
    """The record itself, then every model that it is made of, by name."""
    parts = schema.get("$defs", {})
    return (_model("Record", schema), *(_model(name, part) for name, part in sorted(parts.items())))


def _model(name: str, schema: Mapping[str, Any]) -> SchemaModel:
    required = set(schema.get("required", ()))
    return SchemaModel(
        name=name,
        about=" ".join(str(schema.get("description", "")).partition("\n\n")[0].split()),
        fields=tuple(
            SchemaField(field, _type(of), field in required)
            for field, of in schema.get("properties", {}).items()
        ),
        values=tuple(str(value) for value in schema.get("enum", ())),
    )


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    match schema.get("type"):
        case "array":
            return f"list of {_type(schema.get('items', {}))}"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"mapping of text to {_type(schema['additionalProperties'])}"
        case "string" if schema.get("format") == "date-time":
            return "time with zone"
        case str(name):
            return {"string": "text", "integer": "whole number"}.get(name, name)
    return "any JSON"
