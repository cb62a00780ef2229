"""The repr of optimisers and trainers: their settings, at any moment of a run."""

import numpy as np
import pytest

from rnnfast import models, optim, sequences, trainer

SHOWN = {
    "SGD(lr=0.5)": optim.SGD(0.5),
    "SGD(lr=0.5, weight_decay=0.1)": optim.SGD(0.5, weight_decay=0.1),
    "Momentum(lr=0.01, momentum=0.8)": optim.Momentum(momentum=0.8),
    "Nesterov(lr=0.01, momentum=0.9)": optim.Nesterov(),
    "AdaGrad(lr=0.01)": optim.AdaGrad(),
    "RMSprop(lr=0.01, decay_rate=0.9)": optim.RMSprop(decay_rate=0.9),
    "ASGD(lr=0.5, start=3)": optim.ASGD(0.5, start=3),
    "NTASGD(lr=0.01, interval=2)": optim.NTASGD(interval=2),
    "Adam(lr=0.001, beta1=0.9, beta2=0.999)": optim.Adam(),
}


def test_every_optimiser_is_here():
    assert {type(made).__name__ for made in SHOWN.values()} == optim.OPTIMIZERS.keys()


@pytest.mark.parametrize("text", SHOWN)
def test_an_optimiser_shows_its_arguments(text):
    made = SHOWN[text]
    assert repr(made) == text
    again = eval(text, dict(optim.OPTIMIZERS))
    assert again.state_dict() == made.state_dict()


def test_an_optimiser_shows_its_present_learning_rate():
    adam = optim.Adam(0.5)
    adam.update([np.ones(2)], [np.ones(2)])  # counts an iteration, which is no argument
    adam.lr = 0.25
    assert repr(adam) == "Adam(lr=0.25, beta1=0.9, beta2=0.999)"
    adam.lr = None  # update refuses it, and repr is for finding that
    assert repr(adam) == "Adam(lr=None, beta1=0.9, beta2=0.999)"


def test_a_trainer_shows_model_optimiser_and_finished_epochs():
    ids = np.arange(21) % 4
    model = models.Rnnlm(4, wordvec_size=2, hidden_size=3, rng=0)
    training = trainer.RnnlmTrainer(model, optim.SGD(0.1))
    assert repr(training) == "RnnlmTrainer(Rnnlm, SGD(lr=0.1), epoch 0)"
    training.fit(ids[:-1], ids[1:], 3, batch_size=2, time_size=5, eval_interval=None)
    assert repr(training) == "RnnlmTrainer(Rnnlm, SGD(lr=0.1), epoch 3)"


def test_a_trainer_of_samples_and_of_a_foreign_optimiser():
    class Own:
        lr = 1.0

        def update(self, params, grads):
            pass

        def __repr__(self):
            return "Own()"

    model = sequences.SequenceClassifier(1, 2, classes=2, rng=0)
    assert repr(trainer.Trainer(model, Own())) == "Trainer(SequenceClassifier, Own(), epoch 0)"
