"""Several processes do what one does. The file is also the script that runs them: one start, one
interpreter that forks them, all runs in a row."""

import os
import signal
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torchmetrics
from processes import run_python
from support import StopAt, tiny_pairs
from timm.layers import DropPath
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchmetrics.utilities import dim_zero_cat

from finetune import (
    Batch,
    Callback,
    CSVLog,
    DataLoaders,
    DivergenceError,
    Learner,
    MLflow,
    TensorBoard,
    distributed,
)
from finetune.files.locks import InUseError, held
from finetune.files.names import beside
from finetune.randomness import generator, uniforms
from finetune.training import checkpoint
from finetune.training.events import FitStart, Precompute, StepEnd
from finetune.training.setup import Loss


class Scaled(nn.Module):
    """Cross-entropy of scaled outputs; the scales train."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs * self.scale, targets)


class Counted(nn.Module):
    """Cross-entropy of outputs without their running mean, which each process would see its own of.

    The mean is of the training batches alone.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * outputs.detach().mean(0)
        return nn.functional.cross_entropy(outputs - self.mean, targets)


def mlp() -> nn.Module:
    """BatchNorm, dropout and stochastic depth, whose results depend on the whole batch."""
    torch.manual_seed(distributed.rank())
    return nn.Sequential(
        nn.Linear(4, 6),
        nn.Sequential(nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 6)),
        nn.Sequential(DropPath(0.2), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 2)),
    )


class Unused(nn.Sequential):
    """Three layers, with a parameter that no loss reaches, and that weight decay would shrink."""

    def __init__(self) -> None:
        super().__init__(*linear())
        self[2].register_parameter("unused", nn.Parameter(torch.ones(3)))


class Lists(torchmetrics.Metric):
    """Keeps what it gets, of which a process may get nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("outputs", [], dist_reduce_fx="cat")
        self.add_state("classes", [], dist_reduce_fx="cat")
        self.add_state("means", [], dist_reduce_fx="cat")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.outputs.append(outputs)
        self.classes.append(targets)
        self.means.append(outputs.mean())

    def compute(self) -> Tensor:
        outputs, classes = dim_zero_cat(self.outputs), dim_zero_cat(self.classes)
        assert len(dim_zero_cat(self.means)) == 1
        return outputs[range(len(classes)), classes].median()


def torch_loaders(train: Callable[..., Iterable] = DataLoader) -> DataLoaders:
    """Plain loaders, the first one shuffled; the last batches have 4 examples, and 1."""
    pairs = tiny_pairs(64)
    return DataLoaders(
        train(pairs, 10, shuffle=True), DataLoader(tiny_pairs(9), 4), classes=["no", "yes"]
    )


class Iterated(IterableDataset):
    """Batches of an iterable data set; each process has its own ones, or all have the same."""

    def __init__(self, *, own: bool) -> None:
        self.own = own

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        points, classes = tiny_pairs(64).tensors
        rank, count = (distributed.rank(), distributed.world_size()) if self.own else (0, 1)
        yield from zip(points[rank::count], classes[rank::count], strict=True)

    def __len__(self) -> int:
        return 64 // (distributed.world_size() if self.own else 1)


def iterated(*, own: bool) -> DataLoaders:
    batch_size = 8 // (distributed.world_size() if own else 1)
    train = DataLoader(Iterated(own=own), batch_size)
    return DataLoaders(train, DataLoader(tiny_pairs(9), 4), classes=["no", "yes"])


RUNS = {
    "plain": {},
    "unused parameters": {"model": Unused, "weight_decay": 0.5, "accumulate": 2},
    "one example to validate on": {"valid": 1, "extra_metric": Lists},
    "torch loader": {"data": torch_loaders},
    "iterable data set": {"data": partial(iterated, own=False)},
    "iterable data set of shares": {"data": partial(iterated, own=True)},
    "mlp": {"model": mlp, "weight_decay": 0.1},
    "mlp, uneven": {"model": mlp, "batch_size": 11, "accumulate": 2},
    "one example in the last batch": {"batch_size": 7},
    "mixed": {"mixup": 0.4, "model": mlp, "batch_size": 5},
    "several labels": {"task": "multi_label", "loss": nn.BCEWithLogitsLoss(), "model": mlp},
    "accumulating": {"accumulate": 3},
    "clipped": {"clip_norm": 0.05, "accumulate": 2},
    "averaged": {"ema": 0.9, "label_smoothing": 0.1},
    "weighted": {"loss": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 7.0]))},
    "ignoring": {"loss": nn.CrossEntropyLoss(ignore_index=0), "accumulate": 3},
    "learned": {"loss": Scaled(), "clip_norm": 0.5},
    "summed": {"loss": nn.CrossEntropyLoss(reduction="sum"), "accumulate": 2},
}
FROZEN_RUNS = {
    "cached": {"freeze_views": 2},
    "uncached": {"freeze_views": 2, "cache_features": False},
    "cached, new views": {},
}


class Shares:
    """Every process takes its share of each batch, as `ImageLoader` does."""

    def __init__(self, count: int, batch_size: int, *, shuffle: bool) -> None:
        self.pairs, self.batch_size, self.shuffle = tiny_pairs(count), batch_size, shuffle

    def __len__(self) -> int:
        return -(-len(self.pairs) // self.batch_size)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = torch.arange(len(self.pairs))
        if self.shuffle:
            order = torch.randperm(len(order), generator=generator(seed, "shuffle", epoch))
        for indices in torch.split(order, self.batch_size)[start:]:
            mine = indices[distributed.rank() :: distributed.world_size()]
            yield Batch(*(tensor[mine] for tensor in self.pairs.tensors), mine)


class Numbered(Shares):
    """Shares whose examples have numbers; training drops the last, short batch."""

    def __len__(self) -> int:
        return len(self.pairs) // self.batch_size if self.shuffle else super().__len__()

    @property
    def targets(self) -> Tensor:
        return self.pairs.tensors[1]

    def order(self, seed: int, epoch: int) -> list[Tensor]:
        batches = list(super().epoch(seed, epoch))[: len(self)]
        return [batch.indices for batch in batches if batch.indices is not None]

    def fetch(self, order: Sequence[Tensor]) -> Iterator[Batch]:
        for numbers in order:
            yield Batch(*(tensor[numbers] for tensor in self.pairs.tensors), numbers)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        return self.fetch(self.order(seed, epoch)[start:])


class Moved(DataLoaders):
    """Points that every random view moves a little."""

    def prepare(self, batch: Batch, view: int | None) -> Batch:
        if view is None or batch.indices is None:
            return batch
        moves = uniforms(self.seed, "move", view, batch.indices, "abcd").T - 0.5
        return replace(batch, inputs=batch.inputs + moves)


def numbered_data() -> DataLoaders:
    """Of 65 + 65 examples the second process has 32 + 32: none of the last one of 64 + 1."""
    train, valid = Numbered(65, 8, shuffle=True), Numbered(65, 8, shuffle=False)
    return Moved(train, valid, classes=["no", "yes"])


def fine_tune_numbered(**options: object) -> dict:
    learner, counter = new_learner(data=numbered_data()), CountPrecompute()
    learner.fine_tune(1, base_lr=1e-2, freeze_epochs=3, callbacks=[counter], **options)
    return {**outcome(learner), "precomputed": counter.done}


def fine_tune_between() -> dict:
    """Rates that are so high that the end is not the best."""
    learner = new_learner()
    learner.fine_tune(2, base_lr=0.3, lr_mult=1, interpolate=True)
    between = learner.history.epochs[-1].between
    assert between is not None
    return {**outcome(learner), "fraction": between.fraction}


def fine_tune_probed() -> dict:
    """A linear head on kept features, which begins as a probe."""
    torch.manual_seed(distributed.rank())
    body = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
    learner = Learner(
        numbered_data(),
        nn.Sequential(OrderedDict(backbone=body, head=nn.Linear(6, 2))),
        loss=nn.functional.cross_entropy,
        metrics=["accuracy"],
        device="cpu",
        precision="fp32",
        progress=False,
    )
    learner.fine_tune(1, base_lr=1e-2)
    assert learner.history.epochs[0].phase == "probe"
    return outcome(learner)


def spread(outputs: Tensor, targets: Tensor) -> Tensor:
    """A metric that is no mean over examples."""
    return outputs.std()


def linear() -> nn.Module:
    torch.manual_seed(distributed.rank())  # other weights in each, until somebody makes them equal
    return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2))


def new_learner(
    loss: Loss = nn.functional.cross_entropy,
    *,
    model: Callable[[], nn.Module] = linear,
    batch_size: int = 8,
    task: str = "single_label",
    data: DataLoaders | Callable[[], DataLoaders] | None = None,
    valid: int = 9,
    extra_metric: Callable[[], object] | None = None,
    **options: object,
) -> Learner:
    """Three layers, one group each; 64 examples; 9 examples to validate on, 4 + 4 + 1."""
    if callable(data):
        data = data()
    if data is None:
        train, valid = Shares(64, batch_size, shuffle=True), Shares(valid, 4, shuffle=False)
        if task == "multi_label":
            for loader in (train, valid):
                points, labels = loader.pairs.tensors
                loader.pairs = TensorDataset(points, torch.stack([labels, 1 - labels], 1).float())
        data = DataLoaders(train, valid, classes=["no", "yes"], task=task)
    metrics = ["accuracy", "f1", spread] if task == "multi_label" else ["accuracy", "auroc", spread]
    if extra_metric is not None:
        metrics = {"accuracy": "accuracy", "extra": extra_metric()}
    return Learner(
        data, model(), loss=loss, metrics=metrics, split=[1, 2],
        device="cpu", precision="fp32", progress=False, **options,
    )  # fmt: skip


def outcome(learner: Learner) -> dict:
    state = learner.model.state_dict()
    if learner.layer_groups.loss_group is not None:
        state |= learner.layer_groups.loss_group.parameters
    return {
        "model": {n: v.detach().clone() for n, v in state.items()},
        "steps": [(row.phase, row.loss) for row in learner.history.steps],
        "epochs": [(row.train_loss, dict(row.valid)) for row in learner.history.epochs],
    }


@pytest.fixture(scope="module")
def single() -> dict[str, dict]:
    return _same_runs()


def results_of(folder: Path, count: int) -> list[dict]:
    """What each of so many processes has done."""
    done = run_python(Path(__file__), folder, count, environment={"GLOO_SOCKET_IFNAME": "lo"})
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    return results_of(tmp_path_factory.mktemp("ranks"), 2)


def close(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[n], b[n], atol=1e-5, rtol=0) for n in a)


ALL_RUNS = [*RUNS, *FROZEN_RUNS, "between", "probed"]


@pytest.mark.parametrize("name", ALL_RUNS)
def test_two_processes_train_as_one(name: str, ranks, single):
    assert close(ranks[0][name]["model"], single[name]["model"])


@pytest.mark.parametrize("name", ALL_RUNS)
def test_processes_stay_equal_across_the_freeze_boundary(name: str, ranks):
    first, second = (rank[name]["model"] for rank in ranks)
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("name", ALL_RUNS)
def test_losses_and_metrics_are_those_of_one_process(name: str, ranks, single):
    for rank in ranks:
        check_history(rank[name], single[name])


def check_history(found: dict, expected: dict) -> None:
    """Losses and metrics of all steps and epochs are the same but for rounding."""
    assert [p for p, _ in found["steps"]] == [p for p, _ in expected["steps"]]
    losses = [loss for _, loss in found["steps"]]
    assert losses == pytest.approx([loss for _, loss in expected["steps"]], abs=1e-5)
    for mine, one in zip(found["epochs"], expected["epochs"], strict=True):
        assert mine[0] == pytest.approx(one[0], abs=1e-5)
        assert mine[1] == pytest.approx(one[1], abs=1e-5)


@pytest.mark.slow
def test_three_processes_do_what_one_does(tmp_path: Path, single):
    for rank in results_of(tmp_path, 3):
        for name in ALL_RUNS:
            if name == "iterable data set of shares":
                continue  # 64 examples and batches of 8 do not divide by three
            if name == "probed":
                # other chunks round the features otherwise, and the solver stops where it is near
                # enough: its loss is the same, and the weights of a flat direction are not
                losses = [results[name]["epochs"][0][0] for results in (rank, single)]
                assert losses[0] == pytest.approx(losses[1], abs=1e-3)
                continue
            assert close(rank[name]["model"], single[name]["model"]), name
            check_history(rank[name], single[name])


def test_processes_take_the_same_point_between_the_ends(ranks, single):
    fractions = {results["between"]["fraction"] for results in (*ranks, single)}
    assert fractions == {0.75}


def test_kept_features_give_the_results_of_a_run_without_them(ranks):
    for rank in ranks:
        assert close(rank["cached"]["model"], rank["uncached"]["model"])
        cached, uncached = ([loss for _, loss in rank[n]["steps"]] for n in ("cached", "uncached"))
        assert cached == pytest.approx(uncached, abs=1e-5)


def test_every_process_is_told_of_all_features(ranks, single):
    view, valid, alone = [64, 65], [64, 65], [32, 64, 65]
    for rank in ranks:
        later = [*view, *valid]  # the earlier half of the body, in the second phase
        assert rank["cached"]["precomputed"] == [*view, *valid, *view, *later]
        assert rank["cached, new views"]["precomputed"] == [*view, *valid, *view, *view, *later]
        assert rank["uncached"]["precomputed"] == []
    assert single["cached"]["precomputed"] == alone * 5


def test_each_process_runs_the_frozen_layers_on_its_share(ranks):
    # first a few examples, to find the boundary and to prove it; the second process has no share of
    # the last of 65 and runs one for nothing
    assert [rank["frozen runs"] for rank in ranks] == [[2, 3, 3, 3, 32, 1, 32, 1]] * 2


def test_a_hook_in_one_process_alone_makes_both_search_again(ranks):
    """A search shares the weights, and a process that did not search would be waited for."""
    assert ranks[0]["hooked"] == ranks[1]["hooked"] > 0


def test_ctrl_c_in_one_process_while_precomputing_ends_both(ranks):
    assert [rank["interrupted precomputing"] for rank in ranks] == [[64], [64]]


def test_gradients_travel_once_a_step(ranks):
    # 8 batches in windows of 3 are 3 steps an epoch; the other batches run under no_sync. The first
    # step shows which parameters are used, and averages without torch's wrapper
    assert [rank["reductions"] for rank in ranks] == [2, 2]


def test_the_range_test_sees_all_examples_of_a_step(ranks, single):
    for rank in ranks:
        assert rank["lr_find"] == pytest.approx(single["lr_find"], abs=1e-5)


def test_only_the_first_process_writes_checkpoints(ranks):
    assert ranks[0]["writes"] > 0
    assert ranks[1]["writes"] == 0


def test_only_the_first_process_writes_logs(ranks):
    assert [rank["logged"] for rank in ranks] == [("1,fit,1", "1,fit,2")] * 2
    assert [rank["event files"] for rank in ranks] == [1, 1]
    assert ranks[1]["tracked"] is None


def test_a_stopped_run_goes_on_from_the_file_in_both_processes(ranks, single):
    for rank in ranks:
        assert close(rank["resumed"]["model"], single["plain"]["model"])
        assert len(rank["resumed"]["steps"]) == len(single["plain"]["steps"])


def test_ctrl_c_in_one_process_ends_both_at_the_same_step(ranks):
    assert [rank["interrupted"] for rank in ranks] == ["KeyboardInterrupt after 8 steps"] * 2


def test_a_loss_that_is_no_number_in_one_process_is_an_error_in_both(ranks):
    assert [rank["diverged"] for rank in ranks] == [True, True]


def test_what_a_loss_counts_is_the_same_in_both_processes_and_after_a_resume(ranks):
    first, second = (rank["counted"] for rank in ranks)
    assert torch.equal(first["whole"], second["whole"])
    assert torch.equal(first["whole"], first["resumed"])
    assert torch.equal(first["resumed"], second["resumed"])


def test_a_file_that_is_in_use_is_an_error_in_both_processes(ranks):
    for rank in ranks:
        assert "is in use by another run" in rank["in use"]


def test_without_torchrun_there_is_one_process():
    model = nn.Linear(2, 2)
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.total(torch.ones(2)).tolist() == [1, 1]
    assert distributed.any_process(True)
    assert not distributed.any_process(False)
    assert distributed.averaged(model) is model


# --- what runs in each of the two processes


class CountPrecompute(Callback):
    """How many images were done each time; may send Ctrl-C to the first process at once."""

    def __init__(self, *, interrupt: bool = False) -> None:
        self.done: list[int] = []
        self.interrupt = interrupt

    def on_precompute(self, event: Precompute) -> None:
        self.done.append(event.done)
        if self.interrupt and distributed.rank() == 0:
            os.kill(os.getpid(), signal.SIGINT)


def _frozen_runs() -> list[int]:
    """How many examples go through the frozen layers at a time when one view is kept."""
    learner, sizes = new_learner(data=numbered_data()), []
    hook = learner.model[0].register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    learner.freeze()
    learner.fit(1)
    hook.remove()
    return sizes


class HookFirst(Callback):
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def on_fit_start(self, event: FitStart) -> None:
        if distributed.rank() == 0:
            self.model[-1].register_forward_hook(lambda *_: None)


class InterruptFirst(Callback):
    def on_step_end(self, event: StepEnd) -> None:
        if distributed.rank() == 0 and event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)


def _no_number_in_the_second(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets) / (1 - distributed.rank())


def _reductions() -> int:
    """How many times gradients are averaged in an epoch of 8 batches, 3 to a step."""
    calls = []
    original = distributed.DistributedDataParallel

    def counting(model: nn.Module, **options: object) -> DistributedDataParallel:
        net = original(model, **options)

        def hook(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
            calls.append(bucket.index())
            return allreduce_hook(None, bucket)

        net.register_comm_hook(None, hook)
        return net

    distributed.DistributedDataParallel = counting
    new_learner(accumulate=3).fit(1)
    distributed.DistributedDataParallel = original
    return len([index for index in calls if index == 0])


def _logs(folder: Path) -> dict:
    """What two epochs leave in files that both processes would write, and the second's MLflow."""
    log, events, tracker = folder / "log.csv", folder / "events", MLflow()
    second = [tracker] if distributed.rank() else []
    new_learner(callbacks=[CSVLog(log), TensorBoard(events), *second]).fit(2)
    dist.barrier()
    _, *rows = log.read_text().splitlines()
    return {
        "logged": tuple(",".join(row.split(",")[:3]) for row in rows),
        "event files": len(list(events.iterdir())),
        "tracked": tracker.run_id,
    }


def _counted(folder: Path) -> dict:
    """The running mean of a loss after a whole run, and after one that was stopped and resumed."""
    whole, resumed = Counted(), Counted()
    new_learner(whole).fit(2, 1e-2)
    learner = new_learner(Counted())
    learner.fit(2, 1e-2, callbacks=[StopAt(5)])
    learner.save(folder / "counted.pt")
    dist.barrier()
    learner = new_learner(resumed)
    learner.load(folder / "counted.pt")
    learner.resume()
    return {"whole": whole.mean, "resumed": resumed.mean}


def _in_use(path: Path) -> str:
    """The error of a fit whose checkpoint the first process finds locked."""
    first = distributed.rank() == 0
    with held(beside(path, "lock"), "run") if first else nullcontext():
        try:
            new_learner().fit(1, checkpoint=path)
        except InUseError as error:
            return str(error)
    return ""


def _same_runs() -> dict:
    """The runs that any number of processes do alike."""
    results: dict = {}
    for name, options in RUNS.items():
        learner = new_learner(**options)
        learner.fine_tune(2, base_lr=1e-2)
        results[name] = outcome(learner)
    for name, options in FROZEN_RUNS.items():
        results[name] = fine_tune_numbered(**options)
    results["between"] = fine_tune_between()
    results["probed"] = fine_tune_probed()
    results["lr_find"] = list(new_learner(model=mlp).lr_find(steps=20, end_lr=0.1).losses)
    return results


def _runs(folder: Path) -> dict:
    results = _same_runs()
    writes = []
    write = checkpoint.write
    checkpoint.write = lambda path, content: (writes.append(path), write(path, content))
    new_learner().fit(2, checkpoint=folder / "written.pt")
    results["writes"] = len(writes)
    results["reductions"] = _reductions()
    results["frozen runs"] = _frozen_runs()
    results.update(_logs(folder))
    learner = new_learner(data=numbered_data())
    learner.fine_tune(1, callbacks=[HookFirst(learner.model)])
    results["hooked"] = len(learner.history.steps)
    counter = CountPrecompute(interrupt=True)
    try:
        new_learner(data=numbered_data()).fine_tune(1, callbacks=[counter])
    except KeyboardInterrupt:
        results["interrupted precomputing"] = counter.done
    learner = new_learner()
    learner.fine_tune(2, base_lr=1e-2, callbacks=[StopAt(11)])
    learner.save(folder / "stopped.pt")
    dist.barrier()
    learner = new_learner()
    learner.load(folder / "stopped.pt")
    learner.resume()
    results["resumed"] = outcome(learner)
    results["counted"] = _counted(folder)
    results["in use"] = _in_use(folder / "in use.pt")
    learner = new_learner()
    try:
        learner.fit(2, callbacks=[InterruptFirst()])
    except KeyboardInterrupt:
        results["interrupted"] = f"KeyboardInterrupt after {len(learner.history.steps)} steps"
    try:
        new_learner(_no_number_in_the_second).fit(1)
    except DivergenceError:
        results["diverged"] = True
    return results


def _rank(rank: int, folder: Path, count: int) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=count)
    results = _runs(folder) if count == 2 else _same_runs()
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


def _main(folder: Path, count: int) -> None:
    new_learner()  # imports what takes long once, not in each
    children = []
    for rank in range(count):
        children.append(os.fork())
        if children[-1] == 0:
            _rank(rank, folder, count)
            # the interpreter would take seconds to free what the fork shares with its parent
            os._exit(0)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(max(map(abs, codes)))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
