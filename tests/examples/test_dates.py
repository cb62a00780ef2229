"""The example of attention: its data, what it learns, its picture and the words for it."""

import datetime

import numpy as np
import pytest

from rnnfast.examples import dates
from rnnfast.sequences import AttentionSeq2seq, Seq2seq

PNG = b"\x89PNG\r\n\x1a\n"


def read(text):
    """The date that a text means, by the standard library's parser."""
    plain = text.replace("the ", "").replace(" of ", " ")
    for ending in ("st ", "nd ", "rd ", "th ", "st,", "nd,", "rd,", "th,"):
        for digit in "0123456789":
            plain = plain.replace(digit + ending, digit + ending[2:])
    forms = ["%B %d, %Y", "%b %d %Y", "%d %B %Y", "%d-%b-%Y", "%A, %B %d, %Y"]
    forms += ["%m/%d/%Y", "%d.%m.%Y", "%Y/%m/%d", "%m/%d/%y"]
    for form in forms:
        try:
            return datetime.datetime.strptime(plain, form).date()
        except ValueError:
            pass
    raise AssertionError(text)


def test_dates_mean_their_answers():
    xs, ts = dates.make_data(3000, seed=0)
    assert xs.shape == (3000, dates.QUESTION) and ts.shape == (3000, dates.ANSWER)
    texts = [dates.VOCABULARY.decode(x).rstrip() for x in xs]
    assert len(set(texts)) == 3000
    for text, t in zip(texts, ts, strict=True):
        assert dates.VOCABULARY.decode(t) == f"_{read(text).isoformat()}"


def test_forms_by_hand():
    day = datetime.date(1994, 9, 27)
    assert [form(day) for form in dates.FORMS] == [
        "September 27, 1994",
        "september 27, 1994",
        "September 27th, 1994",
        "Sep 27 1994",
        "SEP 27 1994",
        "27 September 1994",
        "27-Sep-1994",
        "the 27th of September 1994",
        "Tuesday, September 27, 1994",
        "9/27/1994",
        "9/27/94",
        "27.9.1994",
        "1994/9/27",
    ]
    days = [datetime.date(2001, 1, day) for day in (1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 30)]
    endings = "st nd rd th th th th st nd rd th"
    assert " ".join(dates.ordinal(day).lstrip("0123456789") for day in days) == endings
    longest = max(len(form(day)) for day in dates.YEAR for form in dates.FORMS)
    assert longest == dates.QUESTION  # "Wednesday, September 16, 1970"


def test_every_text_is_of_one_date():
    """Also where the month's name is its abbreviation, and within a century's two digits."""
    days = (dates.LAST - dates.FIRST).days + 1
    texts = [form(dates.FIRST + datetime.timedelta(k)) for k in range(days) for form in dates.FORMS]
    assert len(set(texts)) == len(texts) and max(map(len, texts)) == dates.QUESTION


def test_the_seed_decides():
    (xs, _), (again, _), (others, _) = (dates.make_data(50, seed) for seed in (0, 0, 1))
    assert (xs == again).all() and (xs != others).any()


def test_from_a_shell(tmp_path, capsys):
    """A small model is trained, its picture drawn, and told in words, also in the file."""
    pytest.importorskip("matplotlib")
    picture = tmp_path / "picture.png"
    usual = dates.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dates, "run", lambda **options: usual(**options, size=300))
        assert dates.main(["--epochs", "1", "--hidden", "8", "--picture", str(picture)]) == 0
        out = capsys.readouterr().out
        found = picture.read_bytes()
        assert found.startswith(PNG)
        assert "exactly right on 30 held-out dates: " in out
        (line,) = (line for line in out.splitlines() if "attention weights" in line)
        assert line.strip().encode("latin-1") in found and line.count(" it looks most at ") == 4
        plain = ["--no-attention", "--epochs", "1", "--hidden", "8", "--picture", str(picture)]
        assert dates.main(plain) == 0
    assert "The share of right answers on held-out dates after each epoch.\n" in (
        capsys.readouterr().out
    )


def test_attention_learns():
    """The loss on held-out dates is far below that of a guess; the weights are softmaxes."""
    model, xs, ts, shares = dates.run(size=2000, epochs=3, hidden=32, cell="gru")
    assert isinstance(model, AttentionSeq2seq) and len(xs) == 200 and len(shares) == 3
    assert model.forward(xs, ts, train_flg=False) < 0.6 * np.log(len(dates.VOCABULARY))
    answer, weights = dates.attention_map(model, xs[0])
    assert weights.shape == (dates.ANSWER - 1, dates.QUESTION) and len(answer) == len(weights)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)


def test_without_attention():
    model, *_ = dates.run(size=300, epochs=1, hidden=8, attention=False)
    assert type(model) is Seq2seq
