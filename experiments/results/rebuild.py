"""A study's record, made again from its stored cells."""

import json
from pathlib import Path
from typing import Any

from experiments import interrupt
from experiments.results import layout
from experiments.results.cell_file import cell_path, told_study
from experiments.results.layout import study_digest


def rebuilt(folder: Path) -> dict[str, Any] | None:
    """A folder's record as its stored cells tell it; None where none of them does.

    Cells that are planned and not stored are taken for the newest study's; those that other code has computed than the
    newest of their study are left out.
    """
    plan = layout.read_plan(folder)
    studies: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in interrupt.looking(layout.in_order(layout.stored(folder), plan)):
        path = cell_path(folder, cell)
        if (about := told_study(path)) is not None:
            key = study_digest(about["config"]), json.dumps(about.get("code"), sort_keys=True)
            study = studies.setdefault(key, about | {"cells": [], "written": 0.0})
            study["cells"].append(cell)
            study["written"] = max(study["written"], path.stat().st_mtime)
    if not studies:
        return None
    # Of one study that different code has computed, the newest counts.
    newest = {digest: study for (digest, _), study in sorted(studies.items(), key=lambda item: item[1]["written"])}
    ordered = sorted(newest.values(), key=lambda study: study["place"])
    told = {cell for study in studies.values() for cell in study["cells"]}
    ordered[-1]["cells"] = layout.in_order({*ordered[-1]["cells"], *(plan.keys() - told)}, plan)
    kept = ("config", "versions", "cells", "code")
    records = [
        {key: study[key] for key in kept if key in study} | {"cells": " ".join(study["cells"])} for study in ordered
    ]
    return records[-1] | ({"earlier": records[:-1]} if len(records) > 1 else {})
