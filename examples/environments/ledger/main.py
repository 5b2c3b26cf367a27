"""Tests ledger.sh, a shell program that answers questions about a file of payments.

What is right is computed here, so a test is a file of payments and a question. A few are large and random.
"""

from __future__ import annotations

import random
import shlex
import tempfile
from collections.abc import Iterable
from pathlib import Path

import envoi

TIMEOUT_S = 10

balance = envoi.suite("balance")
register = envoi.suite("register")
top = envoi.suite("top")
errors = envoi.suite("errors")
large = envoi.suite("large")

SMALL = ["2024-01-05 salary cash 1200", "2024-01-06 cash rent 700.50 January", "2024-01-07 cash food 42.05"]


@envoi.setup
async def build(submission: envoi.Documents) -> None:
    """Check that there is a program that `sh` can read; what is raised here is shown to the agent."""
    if not (Path(submission.dir) / "ledger.sh").is_file():
        raise RuntimeError("there is no ledger.sh in the workspace")
    checked = await envoi.run("sh -n ledger.sh")
    if checked.exit_code:
        raise RuntimeError(f"ledger.sh does not parse: {checked.stderr[-1000:]}")


# -- what is right ----------------------------------------------------------------------------------


def payments(lines: Iterable[str]) -> list[tuple[str, str, str, int]]:
    """Date, from, to, and the amount in cents."""
    found = []
    for line in lines:
        if line.strip() and not line.startswith("#"):
            date, giver, taker, amount = line.split()[:4]
            whole, _, part = amount.partition(".")
            found.append((date, giver, taker, int(whole) * 100 + int(part.ljust(2, "0"))))
    return found


def shown(cents: int) -> str:
    """As the program must write it."""
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02}"


def balances(lines: Iterable[str]) -> dict[str, int]:
    """Account to cents."""
    found: dict[str, int] = {}
    for _, giver, taker, cents in payments(lines):
        found[giver] = found.get(giver, 0) - cents
        found[taker] = found.get(taker, 0) + cents
    return found


def expected_balance(lines: list[str]) -> list[str]:
    """The answer to `balance`."""
    return [f"{account} {shown(cents)}" for account, cents in sorted(balances(lines).items())]


def expected_top(lines: list[str], count: int) -> list[str]:
    """The answer to `top`."""
    ordered = sorted(balances(lines).items(), key=lambda item: (-item[1], item[0]))
    return [f"{account} {shown(cents)}" for account, cents in ordered[:count]]


def expected_register(lines: list[str], account: str) -> list[str]:
    """The answer to `register`."""
    total, found = 0, []
    for date, giver, taker, cents in payments(lines):
        for change, own, other in ((-cents, giver, taker), (cents, taker, giver)):
            if own == account:
                total += change
                found.append(f"{date} {shown(change)} {shown(total)} {other}")
    return found


# -- asking -----------------------------------------------------------------------------------------


async def ask(lines: list[str], *question: str, name: str = "payments.txt") -> envoi.RunResult:
    """Run the program on a file of its own, in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=envoi.session_path()) as folder:
        (Path(folder) / "payments.txt").write_text("".join(f"{line}\n" for line in lines))
        program = envoi.session_path() / "ledger.sh"
        words = shlex.join(["sh", str(program), name, *question])
        return await envoi.run(f"exec {words} </dev/null", cwd=folder, timeout_seconds=TIMEOUT_S)


async def answers(lines: list[str], question: list[str], expected: list[str]) -> dict[str, object]:
    """A question, and the lines that must be the answer."""
    result = await ask(lines, *question)
    got = result.stdout.splitlines()
    if result.exit_code == 0 and got == expected:
        return {"passed": 1, "failed": 0, "total": 1}
    if result.exit_code == -1:
        reason = f"no answer within {TIMEOUT_S} s"
    elif result.exit_code:
        reason = f"exit status {result.exit_code}: {result.stderr[-300:]}"
    elif len(got) != len(expected):
        reason = f"{len(expected)} lines were expected, {len(got)} came: {got[:5]}"
    else:
        place = next(index for index, pair in enumerate(zip(expected, got, strict=True)) if pair[0] != pair[1])
        reason = f"line {place + 1} should be {expected[place]!r}, and is {got[place]!r}"
    return failure(reason, lines, question)


async def refuses(lines: list[str], question: list[str], status: int, begins: str, **more: str) -> dict[str, object]:
    """A question that must be refused, and how its message begins."""
    result = await ask(lines, *question, **more)
    if result.exit_code == status and not result.stdout and result.stderr.startswith(begins):
        return {"passed": 1, "failed": 0, "total": 1}
    reason = (
        f"exit status {status}, no output and {begins!r} on standard error were expected; exit status "
        f"{result.exit_code}, {result.stdout[:200]!r} and {result.stderr[:200]!r} came"
    )
    return failure(reason, lines, question)


def failure(reason: str, lines: list[str], question: list[str]) -> dict[str, object]:
    """What an agent is told; bounded."""
    asked = " ".join(question)
    return {"passed": 0, "failed": 1, "total": 1, "reason": reason[:800], "question": asked, "payments": lines[:20]}


# -- the tests --------------------------------------------------------------------------------------


@balance.test
async def three_payments() -> dict[str, object]:
    """Whole and broken amounts."""
    return await answers(SMALL, ["balance"], expected_balance(SMALL))


@balance.test
async def comments_and_empty_lines() -> dict[str, object]:
    """Are nothing."""
    lines = ["# a comment", "", *SMALL, "   ", "#2024-01-01 a b 5"]
    return await answers(lines, ["balance"], expected_balance(lines))


@balance.test
async def tabs_and_texts() -> dict[str, object]:
    """Tabs separate too; a text may be long."""
    lines = ["2024-02-01\tbank\tcash\t20\tfor a long, long evening", "2024-02-02  cash   bar  19.9  # no comment"]
    return await answers(lines, ["balance"], expected_balance(lines))


@balance.test
async def exact_cents() -> dict[str, object]:
    """Ten times 0.1 is 1.00, and 0.07 is not 0.7."""
    lines = [*["2024-03-01 a b 0.1"] * 10, "2024-03-01 a c 0.07", "2024-03-02 c a 0.7"]
    return await answers(lines, ["balance"], expected_balance(lines))


@balance.test
async def back_to_zero() -> dict[str, object]:
    """0.00, never -0.00, and it is shown."""
    lines = ["2024-03-01 a b 5.25", "2024-03-02 b a 5.25"]
    return await answers(lines, ["balance"], expected_balance(lines))


@balance.test
async def sorted_by_bytes() -> dict[str, object]:
    """Upper case before lower case."""
    lines = ["2024-03-01 b A 1", "2024-03-01 a B 2", "2024-03-01 _x Z9 3"]
    return await answers(lines, ["balance"], expected_balance(lines))


@balance.test
async def nothing() -> dict[str, object]:
    """An empty file."""
    return await answers([], ["balance"], [])


@register.test
async def both_directions() -> dict[str, object]:
    """What comes in and what goes out."""
    return await answers(SMALL, ["register", "cash"], expected_register(SMALL, "cash"))


@register.test
async def below_zero() -> dict[str, object]:
    """A balance may be negative."""
    lines = ["2024-01-01 a b 0.50", "2024-01-02 a b 0.75", "2024-01-03 c a 1"]
    return await answers(lines, ["register", "a"], expected_register(lines, "a"))


@register.test
async def whole_name() -> dict[str, object]:
    """`cash` is not `cash2`, and a name is no pattern."""
    lines = ["2024-01-01 cash2 b 1", "2024-01-02 c.sh b 2", "2024-01-03 cash b 3"]
    return await answers(lines, ["register", "c.sh"], expected_register(lines, "c.sh"))


@register.test
async def to_itself() -> dict[str, object]:
    """Paid, then got back: two lines."""
    lines = ["2024-01-01 a a 5", "2024-01-01 b a 1"]
    return await answers(lines, ["register", "a"], expected_register(lines, "a"))


@register.test
async def unknown_account() -> dict[str, object]:
    """Is no error."""
    return await answers(SMALL, ["register", "nobody"], [])


@top.test
async def two() -> dict[str, object]:
    """The most first."""
    return await answers(SMALL, ["top", "2"], expected_top(SMALL, 2))


@top.test
async def by_amount_not_by_text() -> dict[str, object]:
    """9 is less than 100."""
    lines = ["2024-01-01 z a 9", "2024-01-01 z b 100", "2024-01-01 z c 25.5"]
    return await answers(lines, ["top", "3"], expected_top(lines, 3))


@top.test
async def equal_amounts() -> dict[str, object]:
    """Are sorted by account."""
    lines = ["2024-01-01 x b 5", "2024-01-01 x a 5", "2024-01-01 x c 5"]
    return await answers(lines, ["top", "10"], expected_top(lines, 10))


@top.test
async def none() -> dict[str, object]:
    """0 of them."""
    return await answers(SMALL, ["top", "0"], [])


@errors.test
async def wrong_amount() -> dict[str, object]:
    """The line is named."""
    return await refuses([*SMALL, "2024-01-08 a b 1.234"], ["balance"], 1, "payments.txt:4: ")


@errors.test
async def amount_of_zero() -> dict[str, object]:
    """Must be more than 0."""
    return await refuses(["2024-01-08 a b 0.00", *SMALL], ["register", "a"], 1, "payments.txt:1: ")


@errors.test
async def negative_amount() -> dict[str, object]:
    """Is none."""
    return await refuses(["# one", "2024-01-08 a b -5"], ["top", "1"], 1, "payments.txt:2: ")


@errors.test
async def too_short() -> dict[str, object]:
    """The first wrong line is the one that is named."""
    return await refuses([*SMALL, "2024-01-08 a b", "wrong"], ["balance"], 1, "payments.txt:4: ")


@errors.test
async def wrong_date() -> dict[str, object]:
    """Not YYYY-MM-DD."""
    return await refuses(["2024-1-08 a b 5"], ["balance"], 1, "payments.txt:1: ")


@errors.test
async def missing_file() -> dict[str, object]:
    """Can't be read."""
    return await refuses([], ["balance"], 1, "gone.txt: ", name="gone.txt")


@errors.test
async def no_question() -> dict[str, object]:
    """A wrong call."""
    return await refuses(SMALL, [], 2, "usage:")


@errors.test
async def unknown_question() -> dict[str, object]:
    """A wrong call."""
    return await refuses(SMALL, ["balances"], 2, "usage:")


@errors.test
async def count_is_no_number() -> dict[str, object]:
    """A wrong call."""
    return await refuses(SMALL, ["top", "two"], 2, "usage:")


@errors.test
async def too_many_arguments() -> dict[str, object]:
    """A wrong call."""
    return await refuses(SMALL, ["balance", "cash"], 2, "usage:")


def many(seed: int, count: int) -> list[str]:
    """Random payments, always the same."""
    numbers = random.Random(seed)
    accounts = [f"account{index}" for index in range(60)]
    return [
        f"2024-{numbers.randrange(1, 13):02}-{numbers.randrange(1, 29):02} {numbers.choice(accounts)} "
        f"{numbers.choice(accounts)} {numbers.randrange(5000)}.{numbers.randrange(1, 100):02}"
        for _ in range(count)
    ]


@large.test
async def balance_of_many() -> dict[str, object]:
    """Twenty thousand payments, within the time."""
    lines = many(1, 20_000)
    return await answers(lines, ["balance"], expected_balance(lines))


@large.test
async def register_of_many() -> dict[str, object]:
    """Twenty thousand payments, within the time."""
    lines = many(2, 20_000)
    return await answers(lines, ["register", "account7"], expected_register(lines, "account7"))
