"""Where a fit stands after an epoch, as one file: a killed fit that reads it ends in the same weights."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cift_models.files import replacing


@dataclass(slots=True)
class Progress:
    """Epochs done, losses so far, the best epoch on the rows held out. Order of chunks and RNG are functions of (seed, epoch)."""

    epoch: int = 0
    train_loss: list[float] = field(default_factory=list)
    valid_loss: list[float] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf
    status: str = "running"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file (safetensors, never pickle), whole or absent, that belongs to one fit: `fingerprint` names its config, seed and data."""

    file: Path
    fingerprint: str

    def write(self, at: Progress, states: dict[str, dict[str, Tensor]], adam: dict[int, dict[str, Tensor]]) -> None:
        """states: state_dict by network; adam: the optimiser's moments by parameter."""
        arrays = {f"{name}/{key}": value for name, state in states.items() for key, value in state.items()}
        arrays |= {f"adam/{i}/{key}": value for i, parts in adam.items() for key, value in parts.items()}
        note = {"fingerprint": self.fingerprint, "progress": json.dumps(asdict(at))}
        with replacing(self.file) as temporary:
            save_file({key: value.detach().cpu().contiguous() for key, value in arrays.items()}, temporary, note)

    def read(self) -> tuple[Progress, dict[str, dict[str, Tensor]], dict[int, dict[str, Tensor]]] | None:
        """What `write` left; None where there is none, it is another fit's, or it is damaged (the fit then starts again)."""
        if not self.file.exists():
            return None
        states: dict[str, dict[str, Tensor]] = {}
        adam: dict[int, dict[str, Any]] = {}
        try:
            with safe_open(self.file, framework="pt") as stored:
                note = stored.metadata() or {}
                if note.get("fingerprint") != self.fingerprint:
                    return None
                for name in stored.keys():  # noqa: SIM118 (not a dict)
                    group, key = name.split("/", 1)
                    if group == "adam":
                        i, part = key.split("/")
                        adam.setdefault(int(i), {})[part] = stored.get_tensor(name)
                    else:
                        states.setdefault(group, {})[key] = stored.get_tensor(name)
        except (SafetensorError, OSError):
            return None
        return Progress(**json.loads(note["progress"])), states, adam
