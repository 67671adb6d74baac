"""The reference part of `docs/check.md`: the options tried, and the known faults."""

import re
from collections.abc import Iterable, Iterator

from app.faults import FAULTS
from app.layers import LAYERS
from app.operations.check import OPTIONS, spelled
from app.schemas.options import CONVENTIONS

PART = re.compile(r"(<!-- tried -->\n).*?(<!-- /tried -->)", re.DOTALL)


def with_reference(page: str) -> str:
    """The page with a fresh reference."""
    return PART.sub(lambda found: found[1] + "".join(_parts()) + found[2], page)


def _parts() -> Iterator[str]:
    yield "## Options tried\nIn this order, each at every other value:\n"
    for option in OPTIONS:
        layers = [spec.name for spec in LAYERS.values() if option.name in spec.options.model_fields]
        yield f'\n### <a id="{option.name}"></a>`{option.name}`\n'
        clauses = {"": option.did} if isinstance(option.did, str) else option.did
        for value, clause in clauses.items():
            text = clause.replace("{value}", "this value")
            named = value in ("", "other", "pairs")
            yield f"- {text}.\n" if named else f"- `{spelled(value)}`: {text}.\n"
        yield f"\nShows on {option.apart}. Layers: {_listed(layers)}.\n"
    yield '\n### <a id="convention"></a>`convention`\n'
    yield f"Each of {_listed(CONVENTIONS)}: all of its defaults at once, its layout included;\n"
    yield "where that differs, also with the layout kept.\n"
    yield "\n## Known faults\n"
    names = dict.fromkeys(fault.name for fault in FAULTS)
    for name in names:
        faults = [fault for fault in FAULTS if fault.name == name]
        families = sorted(set().union(*(fault.families for fault in faults)))
        yield f'\n### <a id="{name}"></a>`{name}`\n'
        sources: dict[str, dict[str, None]] = {}
        for fault in faults:
            sources.setdefault(fault.message, {})[fault.source] = None
        for message, urls in sources.items():
            yield " ".join([message, *(f"[Report]({url})." for url in urls if url)]) + "\n"
        yield f"\nLayers: {_listed(families)}.\n"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none yet"
