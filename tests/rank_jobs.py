"""What tests train on one process and on several ranks."""

import time

import numpy as np

from rnnfast.distributed.compression import HalfSum
from rnnfast.distributed.ranks import Ranks
from rnnfast.models import BetterRnnlm, LanguageModel, Rnnlm, SimpleRnnlm
from rnnfast.optim import SGD, Adam, Cosine, StepDecay, WarmUp
from rnnfast.sequences import Seq2seq, SequenceClassifier, SequenceRegressor, SequenceTagger
from rnnfast.trainer import RnnlmTrainer, Sync, Trainer, eval_accuracy, eval_perplexity

V, N, T, UPDATES = 29, 7, 5, 100
TEXT = (np.arange(N * T * UPDATES // 4 + 1) ** 2 // 7) % 23  # ids 23 to 28 do not occur
HALF = {"dropout": 0.5, "rng": 3}


def _general(**options):
    return lambda dtype: LanguageModel(V, 6, 6, dtype=dtype, **({"rng": 4} | options))


LANGUAGE_MODELS = {
    "simple": lambda dtype: SimpleRnnlm(V, 4, 8, rng=1, dtype=dtype),
    "rnnlm": lambda dtype: Rnnlm(V, 4, 8, rng=1, dtype=dtype),
    "better": lambda dtype: BetterRnnlm(V, 8, 8, rng=2, dtype=dtype),
    "masks of np.random": lambda dtype: _without_seeds(BetterRnnlm(V, 8, 8, rng=2, dtype=dtype)),
    "variational": _general(layers=2, dropout=0.3, variational_dropout=True),
    "awd": _general(
        layers=2,
        weight_drop=0.4,
        embedding_dropout=0.2,
        dropout=0.3,
        variational_dropout=True,
        alpha=2.0,
        beta=1.0,
        tie_weights=True,
    ),
    "zoneout": _general(h_zoneout=0.2, c_zoneout=0.3, recurrent_dropout=0.1),
    "mixture": _general(mixtures=2, mixtures_below=1, layers=2, latent_dropout=0.2),
    "balance": _general(mixtures=3, balance=0.5, latent_dropout=0.2, tie_weights=True),
    "past decode, noise": _general(cell="gru", past_decode=0.01, adversarial=0.01),
    "frage": _general(frage=0.1, tie_weights=True),
    "slstm": _general(cell="slstm"),
}


def _without_seeds(model):
    for drop in model.drop_layers:
        drop.set_mask_state(0, None)
    return model


def _of(model, losses, trainer, **more):
    """What has to be the same."""
    return {
        "params": [param.copy() for param in model.params],
        "losses": losses,
        "lines": trainer.eval_epochs,
        **more,
    }


def language(comm, name, dtype, optimizer="SGD", batch_size=N, epochs=4, **options):
    np.random.seed(5 if comm is None else 5 + comm.Get_rank())  # rank 0's counts
    model = LANGUAGE_MODELS[name](dtype)
    made = {"SGD": SGD(0.5), "Adam": Adam(0.01)}[optimizer]
    steps = []
    trainer = RnnlmTrainer(
        model, made, callbacks=[steps.append], write=lambda line: None, comm=comm
    )
    sizes = batch_size, T, 0.25, 5
    trainer.fit(TEXT[:-1], TEXT[1:], epochs, *sizes, **({"restart_every": 3} | options))
    numbers = [(step.loss, step.grad_norm, step.perplexity) for step in steps]
    measures = [
        measure(model, TEXT[:300], batch, T, prime=prime, comm=comm)
        for measure in (eval_perplexity, eval_accuracy)
        for batch, prime in ((3, None), (5, TEXT[:9]), (1, None))
    ]
    return _of(model, numbers, trainer, ppl=trainer.ppl_list, measures=measures)


def language_all(comm, dtype, **options):
    return {name: language(comm, name, dtype, **options) for name in LANGUAGE_MODELS}


def _samples(rng, count=22, steps=6):
    ids = rng.integers(0, 9, (count, steps))
    lengths = rng.integers(1, steps + 1, count)
    tags = np.where(rng.random((count, steps)) < 0.2, -1, ids % 3)
    vectors = rng.standard_normal((count, steps, 3))
    return {
        "classifier": (
            lambda: SequenceClassifier(3, 5, 2, dropout=0.3, rng=1, dtype="float64"),
            (vectors, ids[:, 0] % 2, lengths),
        ),
        "tagger": (
            lambda: SequenceTagger(9, 4, 5, 3, dropout=0.2, rng=1, dtype="float64"),
            (ids, tags, lengths),
        ),
        "regressor": (
            lambda: SequenceRegressor(3, 5, 2, rng=1, dtype="float64"),
            (vectors, vectors[:, :, :2] ** 2, lengths),
        ),
        "seq2seq": (
            lambda: Seq2seq(9, 4, 5, rng=1, dtype="float64"),
            (ids, ids[:, ::-1] % 9, None),
        ),
    }


def samples_all(comm):
    found = {}
    for name, (make, (x, t, lengths)) in _samples(np.random.default_rng(6)).items():
        np.random.seed(7 if comm is None else 7 + comm.Get_rank())
        model, steps = make(), []
        trainer = Trainer(
            model, Adam(0.02), callbacks=[steps.append], write=lambda line: None, comm=comm
        )
        trainer.fit(x, t, 20, 5, 1.0, 3, lengths=lengths)
        numbers = [(step.loss, step.grad_norm) for step in steps]
        found[name] = _of(model, numbers, trainer, means=trainer.loss_list)
    return found


def validated(comm, every=1):
    """A schedule, validation and patience, of samples and of a text."""
    found = {}
    schedule = WarmUp(0.5).then(Cosine(20, last=0.2)) * StepDecay(3, 0.9)
    given = {"write": lambda line: None, "comm": comm, "schedule": schedule}
    given |= {"sync": Sync(every)} if comm is not None else {}
    for name, (make, (x, t, lengths)) in _samples(np.random.default_rng(6)).items():
        np.random.seed(7 if comm is None else 7 + comm.Get_rank())
        model, steps = make(), []
        trainer = Trainer(model, Adam(0.3), callbacks=[steps.append], **given)
        own, rest = (None, None) if lengths is None else (lengths[:7], lengths[7:])
        held_out = x[:7], t[:7] if name == "regressor" else t[:7][::-1], own
        trainer.fit(x[7:], t[7:], 12, 5, 1.0, 3, lengths=rest, valid=held_out, patience=3)
        numbers = [(step.loss, step.grad_norm, step.lr) for step in steps]
        found[name] = _of(model, numbers, trainer, means=trainer.valid_list)
    steps, model = [], LANGUAGE_MODELS["rnnlm"]("float64")
    trainer = RnnlmTrainer(model, SGD(3.0), callbacks=[steps.append], **given)
    trainer.fit(TEXT[:400], TEXT[1:401], 8, N, T, 0.25, None, valid=TEXT[400:], patience=2)
    numbers = [(step.loss, step.grad_norm, step.lr) for step in steps]
    found["text"] = _of(model, numbers, trainer, means=trainer.valid_list)
    return found


def other_schedules(comm):
    """What rank 1 says whose warm-up is longer than the others'."""
    model = Rnnlm(V, 4, 8, rng=1, dtype="float64")
    schedule = WarmUp(1 + comm.Get_rank())
    trainer = RnnlmTrainer(model, SGD(0.1), comm=comm, schedule=schedule)
    try:
        trainer.fit(TEXT[:100], TEXT[1:101], 1, 4, 5)
    except ValueError as error:
        return str(error)


FEW = 6
TEXT_OF_FEW = np.arange(2 * 3 * FEW) % 5


def traffic_of(comm):
    """Train with batches that all have the same five ids."""
    trainer = RnnlmTrainer(
        Rnnlm(V, 4, 8, rng=1, dtype="float64"), SGD(0.1), write=lambda line: None, comm=comm
    )
    trainer.fit(TEXT_OF_FEW, TEXT_OF_FEW, 1, 2, 3, 1.0)
    traffic = trainer.traffic
    return {name: getattr(traffic, name) for name in ("bytes", "steps", "hidden", "waited")}


def order_of(comm, bucket):
    """How many sums are under way when each layer's backward begins."""
    from rnnfast.distributed import exchange

    seen = {}

    def watched(layer, backward, step):
        def call(dout):
            seen[type(layer).__name__] = step._exchange.begun
            return backward(dout)

        return call

    results = {}
    for name, ranks in (("expected", None), ("params", comm)):
        exchange.BUCKET = bucket
        model = Rnnlm(V, 4, 8, rng=1, dtype="float64")
        trainer = RnnlmTrainer(model, SGD(0.1), write=lambda line: None, comm=ranks)

        def watch(step, model=model, trainer=trainer):
            for layer in model.layers[:-1]:
                if "backward" not in vars(layer):
                    layer.backward = watched(layer, layer.backward, trainer._step)

        if ranks is not None:
            trainer.callbacks = [watch]
        trainer.fit(TEXT[:100], TEXT[1:101], 1, 4, 5, 1.0)
        results[name] = [np.round(param, 10).tolist() for param in model.params]
    return {"under way": seen, **results}


def rounds(comm, sync):
    """Train in rounds, and try to save after every iteration."""
    model = Rnnlm(V, 4, 8, rng=1, dtype="float64")
    trainer = RnnlmTrainer(model, SGD(0.5), write=lambda line: None, comm=comm, sync=Sync(**sync))
    counts = {"iterations": 0, "refused": 0}

    def save(step):
        counts["iterations"] += 1
        try:
            trainer.save_checkpoint("/dev/null/x")
        except RuntimeError:
            counts["refused"] += 1
        except OSError:  # ranks have equal weights, and there is no such file
            pass

    trainer.callbacks = [save]
    trainer.fit(TEXT[:-1], TEXT[1:], 1, 5, 4)
    meetings = -(-counts["iterations"] // sync["every"])
    return counts | {"params": model.params, "bytes": trainer.traffic.bytes, "meetings": meetings}


def losses_of_rounds(comm, every):
    """The losses that this rank's model had, of all ranks, and those that it was told."""
    model, own, told = Rnnlm(V, 4, 8, rng=1, dtype="float64"), [], []
    forward = model.forward

    def heard(xs, ts):
        own.append(float(forward(xs, ts)))
        return own[-1]

    model.forward = heard
    trainer = RnnlmTrainer(
        model,
        SGD(0.5),
        callbacks=[lambda step: told.append(step.loss)],
        write=lambda line: None,
        comm=comm,
        sync=Sync(every=every),
    )
    trainer.fit(TEXT[:-1], TEXT[1:], 1, 4, 4)
    return {"own": comm.allgather(own), "told": told}


def half_sums(comm, count):
    """The mean of many sums of the same arrays in 16 bits."""
    ranks = Ranks(comm)
    mine = (np.random.default_rng(ranks.rank).random(100) + 1).astype(np.float32)
    half, total, once = HalfSum(ranks, 100), np.zeros(100), None
    for _ in range(count):
        ranks.wait([half.begin(mine)], "a test")
        ranks.wait([half.go_on()], "a test")
        total += half.result()
        once = total.copy() if once is None else once
    every = [
        (np.random.default_rng(rank).random(100) + 1).astype("f") for rank in range(ranks.size)
    ]
    return {"mean": total / count, "expected": sum(every), "once": once}


def in_place(comm):
    """Models whose gradients travel where they lie, also those that backward changes once more."""
    from rnnfast.distributed import exchange

    exchange.BUCKET = 1
    return {name: language(comm, name, "float64") for name in ("frage", "awd", "mixture")}


class _Small:
    """A communicator that refuses more bytes at once than it should get."""

    def __init__(self, comm, most):
        self.comm, self.most, self.calls = comm, most, 0

    def __getattr__(self, name):
        return getattr(self.comm, name)

    def Ibcast(self, array, root):
        assert array.nbytes <= self.most
        self.calls += 1
        return self.comm.Ibcast(array, root)

    def Iallgatherv(self, mine, whole):
        assert whole[0].nbytes <= self.most
        self.calls += 1
        return self.comm.Iallgatherv(mine, whole)


def in_pieces(comm, most):
    """What ranks tell each other where so many bytes may travel at once."""
    from rnnfast.distributed import ranks as module

    ranks = Ranks(comm)
    module.PIECE, ranks.comm = most, _Small(ranks.comm, most)
    square = np.arange(20.0).reshape(4, 5)
    read_only = np.arange(9)
    read_only.flags.writeable = False
    value = {"C": square, "F": square.T, "empty": np.zeros((0, 3)), "text": "x" * 50}
    value |= {"strided": square[:, ::2], "read only": read_only, "none": None}
    there = [square * (comm.rank == 0), np.asfortranarray(square) * (comm.rank == 0), read_only[:0]]
    ranks.broadcast(there)
    mine = np.arange(comm.rank * 7).reshape(-1, 7)
    return {
        "first": ranks.from_first(lambda: value),
        "expected": value,
        "broadcast": there,
        "every": ranks.gather("x" * 30 * comm.rank),
        "rows": ranks.gather_rows(mine),
        "calls": ranks.comm.calls,
    }


def long_work(comm, patience, seconds):
    """Each rank works alone for longer than others wait for one that says nothing."""
    ranks = Ranks(comm, patience=patience)

    def computed():  # with the GIL most of the time, as Python code
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
        return "done"

    found = ranks.from_first(computed)
    if comm.rank == 1:  # as a callback of the user's
        time.sleep(seconds)
    total = ranks.sum([1.0])
    ranks.heart.stop()
    comm.Barrier()
    return found, total, ranks.heart._comm.Iprobe()  # whether a sign of life was left over
