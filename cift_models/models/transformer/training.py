"""How the network learns where one part in fifty of the variance is signal: selection of channels, averaging, and a stop.

A plain fit of this network memorises noise: on 60,000 rows with a planted interaction of 2 % it ends at an R2 of -6 % out of sample. What
cures it is a group lasso on the input rows, applied as proximal steps after AdamW's. AdamW moves a weight by the learning rate times the
signal-to-noise ratio of its gradient, so a threshold on that movement is a threshold on a t-statistic whatever the scale of data or loss.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor

from cift_models.files import digest
from cift_models.models.transformer.checkpoint import Checkpoint, Progress
from cift_models.models.transformer.config import TransformerConfig
from cift_models.models.transformer.corpus import HELD_OUT, TRAIN, Corpus
from cift_models.models.transformer.network import Network, Sizes

WARM_UP = 0.1  # share of the steps over which the learning rate rises
SELECTION_RISE = 2.4  # epochs over which the selection does: at full strength from the start it kills true channels before they show
LARGE_ROW = 0.3  # norm from which an input row no longer shrinks (a minimax concave penalty: what is selected is not held down)
CLIP_GRADIENT = 1.0


class Batches:
    """The chunks of an epoch in a random order that depends on the seed and the epoch alone: int64[batch, 3], see Corpus.chunks."""

    def __init__(self, chunks: np.ndarray, batch: int, seed: int) -> None:
        self.chunks, self.batch, self.seed, self.epoch = torch.from_numpy(chunks), batch, seed, 0

    def __len__(self) -> int:
        return -(-len(self.chunks) // self.batch)

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.chunks), generator=generator)
        for rows in order.split(self.batch):
            yield self.chunks[rows]


class Fitting(lightning.LightningModule):
    """One network in training: loss, schedule, selection, running mean, early stop; after each epoch it leaves a checkpoint."""

    def __init__(
        self, config: TransformerConfig, sizes: Sizes, corpus: Corpus, seed: int, file: Path | None, report: Callable[[float], None]
    ) -> None:
        super().__init__()
        self.config, self.report = config, report
        self.network = Network(sizes)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.best = copy.deepcopy(self.average)
        self.at = Progress()
        self.batches = Batches(corpus.chunks(TRAIN, config.chunk), config.batch, seed)
        self.held_out = torch.from_numpy(corpus.chunks(HELD_OUT, config.chunk))
        self.context = sizes.layers * sizes.window
        # Plain attributes, not buffers: the tokens may be larger than memory, and no file of weights should hold them.
        self.data = [torch.from_numpy(a) for a in (corpus.tokens, corpus.place, corpus.target, corpus.label)]
        self.losses: list[Tensor] = []
        self.adam: dict[int, dict[str, Tensor]] | None = None
        self.checkpoint = None
        if file is not None:
            self.checkpoint = Checkpoint(file, digest([config.model_dump(), seed, corpus.digest()]))
            if found := self.checkpoint.read():
                self.at, states, self.adam = found
                for name, state in states.items():
                    getattr(self, name).load_state_dict(state)
                self.batches.epoch = self.at.epoch

    @property
    def steps(self) -> int:
        return self.config.epochs * len(self.batches)

    def gather(self, chunks: Tensor) -> tuple[Tensor, ...]:
        """Tokens, places and realness of the chunks with their context, then targets and labels without it, on the network's device."""
        first, last, start = chunks.cpu().unsqueeze(-1).unbind(1)
        index = start - self.context + torch.arange(self.context + self.config.chunk)
        real = (index >= first) & (index < last)
        index = index.clamp(first, last - 1)
        ours = index[:, self.context :]
        tokens, place, target, label = self.data
        labels = torch.where(real[:, self.context :], label[ours], 0)
        return tuple(a.to(self.device) for a in (tokens[index], place[index], real, target[ours], labels))

    def forecast(self, network: Network, tokens: Tensor, place: Tensor, real: Tensor) -> Tensor:
        """The odd and the even part of f, [2, B, chunk]; under a hard mirror the even part is 0."""
        parts = network(tokens, place, real)
        return parts if self.config.mirror == "learned" else torch.stack([parts[0], torch.zeros_like(parts[1])])

    def training_step(self, chunks: Tensor) -> Tensor:
        tokens, place, real, target, label = self.gather(chunks)
        f = self.forecast(self.network, tokens, place, real).sum(dim=0)
        labelled = label == TRAIN
        loss = ((f - target).square() * labelled).sum() / labelled.sum()
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        inner = [p for name, p in self.network.named_parameters() if name.startswith("layers.") and "gain" not in name]
        ids = {id(p) for p in inner}
        outer = [p for p in self.network.parameters() if id(p) not in ids]
        groups = [{"params": inner, "weight_decay": self.config.weight_decay}, {"params": outer, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.config.learning_rate, betas=(0.9, 0.98))
        if self.adam is not None:
            optimizer.load_state_dict({"state": self.adam, "param_groups": optimizer.state_dict()["param_groups"]})
        return optimizer

    def share(self, batch: int) -> float:
        """Share of all steps done before this one."""
        return (self.at.epoch * len(self.batches) + batch) / self.steps

    def rate(self, share: float) -> float:
        """Cosine after a linear rise."""
        rise = min(1.0, (share * self.steps + 1) / (WARM_UP * self.steps))
        return self.config.learning_rate * rise * 0.5 * (1.0 + math.cos(math.pi * share))

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = self.rate(self.share(batch_idx))

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        share = self.share(batch_idx)
        self.select(self.rate(share) * min(1.0, share * self.config.epochs / SELECTION_RISE))
        done = share * self.steps
        decay = min(self.config.averaging, (1.0 + done) / (10.0 + done))
        for mean, now in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(now, 1.0 - decay)

    def select(self, rate: float) -> None:
        """One proximal step: input rows shrink by rate * sqrt(D) * t / sqrt(steps an epoch), less as they near LARGE_ROW.

        A row of D weights whose gradient has mean m and sd 1 a step moves by rate * sqrt(D) * m, and m sqrt(steps an epoch) is the
        t-statistic of one pass over the rows.
        """
        pull = rate * math.sqrt(self.network.sizes.width) * self.config.selection_t / math.sqrt(len(self.batches))
        for rows in (self.network.embed_odd, self.network.embed_even):
            norm = rows.norm(dim=1, keepdim=True)
            rows.mul_((1.0 - pull * (1.0 - norm / LARGE_ROW).clamp_min(0.0) / norm.clamp_min(1e-12)).clamp_min(0.0))

    def on_train_epoch_end(self) -> None:
        at = self.at
        at.epoch += 1
        f, target, _ = self.judge(self.average)
        train_loss = float(torch.stack(self.losses).mean())
        valid_loss = float(((f.sum(axis=0) - target) ** 2).mean()) if len(target) else 0.0
        self.losses.clear()
        if math.isfinite(train_loss + valid_loss):
            at.train_loss.append(train_loss)
            at.valid_loss.append(valid_loss)
            if not len(target) or valid_loss < at.best_loss:
                at.best_loss, at.best_epoch = valid_loss, at.epoch
                self.best.load_state_dict(self.average.state_dict())
        else:
            at.status = "diverged"
        if at.status == "running" and (
            at.epoch == self.config.epochs or at.epoch - max(at.best_epoch, SELECTION_RISE) >= self.config.patience
        ):
            at.status = "converged"
        self.trainer.should_stop = at.status != "running"
        self.batches.epoch = at.epoch
        if self.checkpoint is not None:
            states = {name: getattr(self, name).state_dict() for name in ("network", "average", "best")}
            self.checkpoint.write(at, states, self.optimizers().state_dict()["state"])  # type: ignore[union-attr]
        self.report(at.epoch / self.config.epochs)

    def judge(self, network: Network) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Over the rows held out: the parts of f float64[2, n], the target float64[n], the token's index int64[n]."""
        parts, targets, indices = [np.empty((2, 0))], [np.empty(0)], [np.empty(0, np.int64)]
        with torch.no_grad():
            for chunks in self.held_out.split(16):
                tokens, place, real, target, label = self.gather(chunks)
                keep = (label == HELD_OUT).cpu().numpy()
                f = self.forecast(network, tokens, place, real)
                parts.append(f.double().cpu().numpy()[:, keep])
                targets.append(target.double().cpu().numpy()[keep])
                indices.append((chunks[:, 2:] + torch.arange(self.config.chunk)).numpy()[keep])
        return np.concatenate(parts, axis=1), np.concatenate(targets), np.concatenate(indices)


@contextmanager
def quiet(threads: int, seed: int) -> Iterator[None]:
    """Torch as a fit wants it: its own random state, so many threads, and Lightning silent about what it would do for us."""
    before = torch.get_num_threads()
    logs = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning", "lightning.fabric", "lightning_fabric")]
    levels = [log.level for log in logs]
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        try:
            torch.set_num_threads(threads)
            torch.manual_seed(seed)
            for log in logs:
                log.setLevel(logging.ERROR)
            yield
        finally:
            torch.set_num_threads(before)
            for log, level in zip(logs, levels, strict=True):
                log.setLevel(level)


def fit_network(
    config: TransformerConfig,
    sizes: Sizes,
    corpus: Corpus,
    seed: int,
    *,
    threads: int = 1,
    device: str = "cpu",
    file: Path | None = None,
    report: Callable[[float], None] = lambda share: None,
) -> Fitting:
    """Train one network; `best` of what comes back is the running mean of the epoch with the lowest loss on the rows held out (the last
    epoch where there are none). Same seed, same fit, also when it is killed and called again with the same `file`.

    Raises nothing for a fit that diverges: `at.status` says so, and `best` is what stood before.
    """
    with quiet(threads, seed):
        fitting = Fitting(config, sizes, corpus, seed, file, report)
        if fitting.at.status != "running":
            return fitting
        trainer = lightning.Trainer(
            max_epochs=config.epochs - fitting.at.epoch,
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed" if device == "cuda" else "32-true",
            gradient_clip_val=CLIP_GRADIENT,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(fitting, train_dataloaders=fitting.batches)
    return fitting
