"""Find the choice that an answer names: as each benchmark's public program does, and strictly.              Lesson 7

Each rule returns the label of a choice, or `None` if it finds none. What counts then (wrong, a random letter, a judge)
is in `table`.
"""

import re
from functools import reduce

from fvv_lib.data.choices import named_choices, units_of
from fvv_lib.evaluation.benchmarks.layouts import LETTERS, BenchmarkQuestion

# An option's label, alone or with words before it and its text after it: B, (B), B. red, The answer is B.
LABEL = re.compile(
    r"(?:(?:the )?(?:(?:best|correct) )?(?:answer|caption|choice|option|sentence)(?: is)?:? *)?"
    r"[(\[]?(?P<label>[A-Z0-9])(?:[)\].:]+(?P<rest>\s.*)?)?",
    re.IGNORECASE | re.DOTALL,
)
SIGNS = ';/[]"{}()=+\\_-><@`,?!'
PHRASES = [
    *(f"{the}{best}answer is" for the in ("", "the ") for best in ("", "correct ", "best ")),
    *(f"{the}{best}option is" for the in ("", "the ") for best in ("correct ", "best ")),
    *(f"{the}{best}choice is" for the in ("", "the ") for best in ("", "correct ")),
    *("i choose", "i select", "i pick", "my answer is", "my choice is"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
]


def strict(answer: str, question: BenchmarkQuestion) -> str | None:
    """The one rule of this package: the answer is a label, with or without brackets, text after it, and "The answer is"
    before it; or it names the text of one choice and no other, as in `evaluation.is_correct`."""
    choices = _bare_choices(question)
    match = LABEL.fullmatch(answer.strip())
    if match and match["label"].upper() in question.labels:
        label = match["label"].upper()
        rest = (match["rest"] or "").replace(choices[question.labels.index(label)], "")
        others = re.findall(r"(?<!\w)([A-Z0-9])(?=[)\].:]|$)", rest)
        return None if {*others} & {*question.labels} - {label} else label
    named = named_choices(answer, choices)
    found = [label for label, text in zip(question.labels, choices, strict=True) if units_of(text) in named]
    return found[0] if len(found) == 1 else None


def _bare_choices(question: BenchmarkQuestion) -> list[str]:
    """Return the texts of the choices without their labels, if they begin with them."""
    texts = list(question.choices or ())
    bare = [
        re.sub(rf"^(?:\w+ )?\(?{label}[).:]\s*", "", text) for label, text in zip(question.labels, texts, strict=True)
    ]
    return bare if all(len(short) < len(text) for short, text in zip(bare, texts, strict=True)) else texts


def mentioned_letter(answer: str, question: BenchmarkQuestion) -> str | None:
    """Video-MME and MLVU: A to D, wherever the answer has it. The place decides which counts: its beginning, its end,
    after a phrase like "the answer is", in brackets, before a sign, before a space, anywhere. Of letters in places of
    the same kind the last one counts. E and F, which questions of the MLVU test set have, are never found."""
    text = f" {_without_signs(answer.strip(), quote=True)} "
    whole = text.strip()
    if not whole:
        return None
    found: list[tuple[int, int, str]] = []
    for letter in "ABCD":
        for rank, form in ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} ")):
            if form.format(letter) in text:
                found.append((rank, text.rfind(form.format(letter)), letter))
        for phrase in PHRASES:
            begin = text.lower().find(phrase)
            place = text.find(letter, begin + len(phrase))
            if begin >= 0 and place >= 0:
                found.append((7, place, letter))
        if whole[0] == letter and not whole[1:2].isalpha():
            found.append((10, 0, letter))
        if whole[-1] == letter and not whole[-2:-1].isalpha():
            found.append((9, 0, letter))
    if not found:
        found = [(0, text.rfind(letter), letter) for letter in "ABCD" if letter in text]
    return max(found)[2] if found else None


def first_lone_letter(answer: str, question: BenchmarkQuestion) -> str | None:
    """MVBench: "B. text", or the first A to E that stands alone, in any case, after most signs are taken out. The
    article "a" counts as A."""
    listed = re.match(r"([A-E])\.\s*(.+)$", answer.strip(), re.IGNORECASE)
    if listed:
        return listed[1].upper()
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    has_thousands = re.search(r"\d,\d", text) is not None
    clean = text
    for sign in SIGNS:
        at_a_space = f"{sign} " in text or f" {sign}" in text
        clean = clean.replace(sign, "" if at_a_space or has_thousands else " ")
    clean = re.sub(r"\.(?!\d)", "", clean, count=32)
    lone = re.search(r"\b([a-e])\b", clean.lower())
    return lone[1].upper() if lone else None


def first_letter_or_text(answer: str, question: BenchmarkQuestion) -> str | None:
    """TVBench: the first letter that stands alone; else the first letter of the first word; else the one choice whose
    text is in the answer. In any case: "because" counts as B, and the article "a" as A."""
    text = answer.strip().upper()
    labels = LETTERS[: max(len(question.labels), 2)]
    for match in (re.search(r"\b([A-Z])\b", text), re.match(r"[(\[]?([A-Z])", text)):
        if match and match[1] in labels:
            return match[1]
    spaced = " ".join(answer.lower().split())
    texts = [" ".join(choice.lower().split()) for choice in question.choices or ()]
    found = [label for label, choice in zip(labels, texts, strict=False) if choice and choice in spaced]
    return found[0] if text and len(found) == 1 else None


def first_capital(answer: str, question: BenchmarkQuestion) -> str | None:
    """LongVideoBench: the first capital A to E, also inside a word, after some phrases are taken out: "Because" counts
    as B."""
    text = answer.strip()
    for words in ("best answer is", "correct answer is", "answer is", "answer", "best option is", "correct option is"):
        text = text.replace(f"The {words}", "")
    match = re.search("[ABCDE]", text.replace("Best answer:", "").replace("Best option:", ""))
    return match[0] if match else None


def earliest_label(answer: str, question: BenchmarkQuestion) -> str | None:
    """EgoSchema: the label in brackets, before a space or before a full stop whose last occurrence comes first; else
    the choice whose text a long answer has."""
    text = f" {_without_signs(answer)} "
    forms = {form.format(label): label for form in ("({})", "{} ", "{}.") for label in question.labels}
    found = [form for form in forms if form in text]
    if found:
        return forms[min(found, key=text.rfind)]
    places = _texts_in(text, question)
    return min(places, key=places.__getitem__) if places else None


def latest_label(answer: str, question: BenchmarkQuestion) -> str | None:
    """NExT-QA: the last label in brackets; else, of labels before a space, then of labels before a full stop, the last
    that stands alone; else the choice whose text a long answer has."""
    text = f" {_without_signs(answer)} "
    for form in ("({})", "{} ", "{}."):
        found = [label for label in question.labels if form.format(label) in text]
        if found:
            alone = "({})" if form == "({})" else " {} "
            return max(found, key=lambda label: text.rfind(alone.format(label)))
    places = _texts_in(text, question)
    return max(places, key=places.__getitem__) if places else None


def any_capital(answer: str, question: BenchmarkQuestion) -> str | None:
    """TOMATO: a capital letter anywhere, also inside a word. Of several the last in brackets counts, or the first in
    the alphabet if none has brackets: "Answer: B" counts as A. Else the choice whose text a long answer has."""
    text = f" {_without_signs(answer)} "
    found = [label for label in question.labels if label in text]
    if found:
        return max(found, key=lambda label: text.rfind(f"({label})"))
    places = _texts_in(text, question)
    return max(places, key=places.__getitem__) if places else None


def tempcompass(answer: str, question: BenchmarkQuestion) -> str | None:
    """TempCompass, each task with its rule. Multiple choice: the whole option, or a letter alone or before "." or ")".
    Yes or no: what the answer begins with ("not sure" counts as no). Caption matching: a whole option, its text, or its
    label."""
    task, choices = question.groups["task"], question.choices or ()
    if task == "multi-choice":
        begin = re.match(r"([ABCD])(?:[.)]|\Z)", answer)
        return begin[1] if begin else None
    if task == "yes_no":
        return next((label for label in ("yes", "no") if answer.lower().startswith(label)), None)
    after_bracket = answer.split(") ")[1] if ") " in answer else answer
    for label, line in zip(question.labels, choices, strict=True):
        name, text = line.split(": ")[:2]
        if answer == line or text in (answer, after_bracket) or {name, label} & {answer, answer.replace(".", "")}:
            return label
    return None


def _without_signs(text: str, quote: bool = False) -> str:
    """Take signs from both ends of a text, each sign once and in this order: ",." keeps nothing, ".," the full stop."""
    return reduce(str.strip, ",.!?;:'" + '"' * quote, text)


def _texts_in(text: str, question: BenchmarkQuestion) -> dict[str, int]:
    """Return the labels of choices whose text an answer of more than 5 words has, with the place of the last
    occurrence."""
    if len(text.split()) <= 5:
        return {}
    low = text.lower()
    texts = {
        label: choice.strip().lower() for label, choice in zip(question.labels, question.choices or (), strict=True)
    }
    return {label: low.rfind(choice) for label, choice in texts.items() if choice in low}
