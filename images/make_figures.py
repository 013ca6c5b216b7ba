"""Draw every picture in images/: ``python images/make_figures.py [FOLDER]`` (or ``make figures``).

Each function returns one SVG as text and is listed in ``FIGURES`` under its file name, so the same
call always gives the same files; tests/test_figures.py compares them with what is stored.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from litellama.course.drawing import Drawing, engine_map
from litellama.course.llama import layer_diagram
from litellama.course.package_map import draw as package_map

LAST_LESSON = 18


def decode_loop() -> str:
    """Lesson 00: one token, from text to text."""
    d = Drawing(
        860,
        132,
        "One token: text becomes ids, the model gives a score for every word of the vocabulary, "
        "softmax turns scores into probabilities, one id is drawn and appended, and round again.",
    )
    steps = [
        ("text", '"… Paris is"', "plain"),
        ("ids", "[504, …, 314]", "plain"),
        ("logits", "49,152 scores", "lit"),
        ("probabilities", "they sum to 1", "plain"),
        ("next id", "drawn", "plain"),
    ]
    verbs = ["tokenizer", "model", "softmax", "sample"]
    w, gap, y = 116, 54, 56
    for i, (name, note, style) in enumerate(steps):
        x = 32 + i * (w + gap)
        d.box(x, y, w, 54, name, style, note)
        if i < len(verbs):
            d.text(x + w + gap / 2, y + 20, verbs[i], 10.5, "soft")
            d.arrow((x + w + 2, y + 28), (x + w + gap - 2, y + 28))
    first, last = 32 + (w + gap) + w / 2, 32 + 4 * (w + gap) + w / 2
    d.arrow((last, y - 1), (last, 32), (first, 32), (first, y - 1))
    d.text((first + last) / 2, 24, "append the id to the ids, and go round again", 12, "soft")
    return d.svg()


def programs() -> str:
    """Lesson 01: which program owns which elements of 10, with BLOCK = 4."""
    d = Drawing(
        760,
        226,
        "Ten elements in memory and three programs with a block of four lanes each. Program 0 owns "
        "elements 0 to 3, program 1 owns 4 to 7, program 2 owns 8 and 9, and its last two lanes, "
        "offsets 10 and 11, are masked.",
    )
    cell, left, top = 50, 130, 34
    styles = ["lit", "orange", "green"]
    d.text(24, top + 30, "memory", 13, "", "start")
    d.text(24, 151, "lanes", 13, "", "start")
    for i in range(12):
        program, x = i // 4, left + i * cell
        style = styles[program] if i < 10 else "masked"
        d.box(x + 2, top, cell - 4, 46, f"a[{i}]" if i < 10 else "", style)
        d.box(x + 6, 130, cell - 12, 32, str(i), style, "", 12)
        if i < 10:
            d.arrow((x + cell / 2, 129), (x + cell / 2, top + 48))
        else:
            d.text(x + cell / 2, top + 28, "not ours", 9, "soft")
    for program in range(3):
        x = left + program * 4 * cell
        d.text(x + 2 * cell, 184, f"program_id = {program}", 13, "mono")
    d.text(left, 210, "offsets = program_id * 4 + [0, 1, 2, 3]", 12, "soft mono", "start")
    d.text(left + 12 * cell, 210, "mask = offsets < 10", 12, "soft mono", "end")
    return d.svg()


def traffic(
    d: Drawing, x: float, y: float, w: float, name: str, reads: list[str], writes: list[str]
) -> None:
    """A kernel as a box above memory: an arrow up for a row it reads, down for one it writes."""
    d.box(x, y, w, 44, name, "plain", "", 12)
    slots = [(label, True) for label in reads] + [(label, False) for label in writes]
    step = w / len(slots)
    for i, (label, is_read) in enumerate(slots):
        middle = x + (i + 0.5) * step
        d.box(middle - 23, y + 92, 46, 28, label, "sky" if is_read else "orange", "", 12)
        ends = ((middle, y + 91), (middle, y + 46))
        d.arrow(*(ends if is_read else ends[::-1]))


def legend(d: Drawing, y: float, what: str = "a row of N") -> None:
    """The two colours of traffic."""
    d.box(24, y - 12, 16, 16, "", "sky")
    d.text(48, y, f"{what} read from memory", 12, "soft", "start")
    d.box(250, y - 12, 16, 16, "", "orange")
    d.text(274, y, f"{what} written to memory", 12, "soft", "start")


def rms_norm_traffic() -> str:
    """Lesson 03: what the torch expression moves, and what one pass moves."""
    d = Drawing(
        820,
        214,
        "RMSNorm as four torch operations moves seven rows: square reads x and writes its square, "
        "mean reads it, multiply by the inverse root reads x and writes y, multiply by the weight "
        "reads y and writes the result. As one kernel it moves two: read x, write the result.",
    )
    d.text(24, 30, "four operations: 7 rows", 13, "", "start")
    d.text(670, 30, "one kernel: 2 rows", 13, "", "start")
    traffic(d, 24, 44, 130, "square", ["x"], ["x²"])
    traffic(d, 180, 44, 90, "mean", ["x²"], [])
    traffic(d, 296, 44, 150, "× 1/rms", ["x"], ["y"])
    traffic(d, 472, 44, 150, "× weight", ["y"], ["out"])
    traffic(d, 670, 44, 126, "rms_norm", ["x"], ["out"])
    legend(d, 196)
    return d.svg()


def skip_rms_norm_traffic() -> str:
    """Lesson 03: add then norm, against both in one kernel."""
    d = Drawing(
        820,
        214,
        "As two kernels the add reads x and r and writes the sum s, the norm reads s and writes "
        "the result: five rows. As one kernel, skip_rms_norm reads x and r and writes s and the "
        "result: four rows, because s is still in registers when the norm needs it.",
    )
    d.text(24, 30, "two kernels: 5 rows", 13, "", "start")
    d.text(524, 30, "one kernel: 4 rows", 13, "", "start")
    traffic(d, 24, 44, 220, "s = x + r", ["x", "r"], ["s"])
    traffic(d, 276, 44, 150, "rms_norm(s)", ["s"], ["out"])
    traffic(d, 524, 44, 272, "skip_rms_norm(x, r)", ["x", "r"], ["s", "out"])
    legend(d, 196)
    return d.svg()


def softmax_traffic() -> str:
    """Lesson 02: what the safe torch expression moves, and what one pass moves."""
    d = Drawing(
        880,
        214,
        "Safe softmax as five torch operations moves eight rows: max reads x, subtract reads x and "
        "writes the shifted row s, exp reads s and writes e, sum reads e, divide reads e and "
        "writes the result. As one kernel it moves two: read x, write the result.",
    )
    d.text(24, 30, "five operations: 8 rows", 13, "", "start")
    d.text(740, 30, "one kernel: 2 rows", 13, "", "start")
    steps = [
        ("max", 84, ["x"], []),
        ("x − max", 150, ["x"], ["s"]),
        ("exp", 150, ["s"], ["e"]),
        ("sum", 84, ["e"], []),
        ("÷ sum", 150, ["e"], ["out"]),
    ]
    x = 24
    for name, width, reads, writes in steps:
        traffic(d, x, 44, width, name, reads, writes)
        x += width + 20
    traffic(d, 740, 44, 116, "softmax", ["x"], ["out"])
    legend(d, 196)
    return d.svg()


def online_lanes() -> str:
    """Lesson 02: every lane keeps a maximum and a sum of its own, and they merge at the end."""
    d = Drawing(
        860,
        236,
        "A row of twelve scores in three blocks of four lanes. Lane 0 sees scores 0, 4 and 8, one "
        "in each turn of the loop, and keeps one maximum and one sum; lanes 1, 2 and 3 do the "
        "same with theirs. After the loop the four pairs merge into the pair of the row.",
    )
    lane_x, block_x, pair_x, row_x = 24, 92, 430, 680
    for b in range(3):
        d.text(block_x + b * 104 + 42, 30, f"block {b}", 12, "soft")
    d.text(pair_x + 70, 30, "its pair", 12, "soft")
    d.text(row_x + 78, 30, "after the loop", 12, "soft")
    d.box(row_x, 106, 156, 54, "max, sum", "orange", "of the whole row")
    for lane in range(4):
        y = 42 + lane * 46
        d.text(lane_x, y + 22, f"lane {lane}", 13, "", "start")
        for b in range(3):
            x = block_x + b * 104
            d.box(x, y, 84, 34, f"x[{4 * b + lane}]", "lit")
            if b < 2:
                d.arrow((x + 85, y + 17), (x + 103, y + 17))
        d.arrow((block_x + 2 * 104 + 85, y + 17), (pair_x - 1, y + 17))
        d.box(pair_x, y, 140, 34, f"max {lane}, sum {lane}", "green")
        d.arrow((pair_x + 141, y + 17), (row_x - 2, 133))
    return d.svg()


def rope_layouts() -> str:
    """Lesson 04: which numbers of a head are turned together, in the two layouts."""
    d = Drawing(
        820,
        196,
        "A head of eight numbers, twice. In the interleaved layout of the paper neighbours are "
        "pairs: 0 with 1, 2 with 3, 4 with 5, 6 with 7. In the half-split layout number i of the "
        "first half is paired with number i of the second: 0 with 4, 1 with 5, 2 with 6, 3 with 7.",
    )
    styles = ["lit", "orange", "green", "sky"]
    layouts = {
        "interleaved (the paper, GGUF)": [i // 2 for i in range(8)],
        "half-split (Hugging Face, this engine)": [i % 4 for i in range(8)],
    }
    for side, (name, pair_of) in enumerate(layouts.items()):
        left = 24 + side * 404
        d.text(left, 30, name, 13, "", "start")
        for i, pair in enumerate(pair_of):
            x = left + i * 46
            d.box(x, 46, 40, 40, f"x[{i}]", styles[pair], "", 12)
            first = pair_of.index(pair)
            if i > first:
                low, start = 100 + 16 * (pair if side else 0), left + first * 46 + 20
                d.arrow((start, 87), (start, low), (x + 20, low), (x + 20, 88))
    d.text(24, 180, "one colour, one pair: turned by one angle", 12, "soft", "start")
    return d.svg()


def rope_token() -> str:
    """Lesson 04: the program of one token, and the heads it turns."""
    d = Drawing(
        820,
        236,
        "The program of one token. It reads one row of cos and one of sin, 32 numbers each, and "
        "turns with them the token's nine query heads and three key heads. Each head is read as a "
        "first half and a second half of 32 numbers. The value heads beside them are not read.",
    )
    d.text(24, 30, "one row of the fused q/k/v matrix: the heads of token t", 13, "", "start")
    for head in range(15):
        x = 24 + head * 51.5
        name = f"q {head}" if head < 9 else f"k {head - 9}" if head < 12 else f"v {head - 12}"
        style = "lit" if head < 9 else "sky" if head < 12 else "masked"
        for half in range(2):
            d.box(x + half * 23.5, 62, 21.5, 40, "", style)
        d.text(x + 22.5, 54, name, 12, "soft")
    d.box(250, 164, 300, 46, "program_id = t", "plain", "turns 9 + 3 heads")
    d.box(24, 164, 90, 46, "cos[t]", "green", "32 numbers")
    d.box(132, 164, 90, 46, "sin[t]", "green", "32 numbers")
    d.arrow((223, 187), (249, 187))
    for x in (24 + 4.5 * 51.5, 24 + 10.5 * 51.5):
        d.arrow((x, 104), (400 + (x - 400) * 0.3, 163))
    d.text(24 + 13.5 * 51.5, 124, "not read", 11, "soft")
    return d.svg()


def swiglu_traffic() -> str:
    """Lesson 05: silu then multiply, against both in one kernel."""
    d = Drawing(
        820,
        214,
        "SwiGLU as two operations moves five rows: silu reads the gate and writes s, multiply "
        "reads s and up and writes the result. As one kernel it moves three: read gate and up, "
        "write the result.",
    )
    d.text(24, 30, "two operations: 5 rows", 13, "", "start")
    d.text(524, 30, "one kernel: 3 rows", 13, "", "start")
    traffic(d, 24, 44, 150, "s = silu(gate)", ["gate"], ["s"])
    traffic(d, 206, 44, 220, "s × up", ["s", "up"], ["out"])
    traffic(d, 524, 44, 220, "swiglu", ["gate", "up"], ["out"])
    legend(d, 196)
    return d.svg()


def swiglu_grid() -> str:
    """Lesson 05: how the programs are numbered, and what one of them reads and writes."""
    d = Drawing(
        860,
        246,
        "Three tokens, each a row of 2 I columns: I gates, then I values, in four blocks each, "
        "with the number of the program that owns them: 0 to 3 along token 0, 4 to 7 along token "
        "1, 8 to 11 along token 2. Program 9 reads block 1 of the gates of token 2 and block 1 of "
        "its values, I columns further on, and writes block 1 of row 2 of the result, which has I "
        "columns.",
    )
    cell, top = 58, 66
    places = {"gate": 92, "up": 92 + 4 * cell, "out": 608}
    d.text(92 + 2 * cell, 34, "gate: I columns", 13)
    d.text(92 + 6 * cell, 34, "up: I columns", 13)
    d.text(608 + 2 * cell, 34, "out: I columns", 13)
    for block in range(4):
        for left in places.values():
            d.text(left + (block + 0.5) * cell, 56, f"block {block}", 10.5, "soft")
    for row in range(3):
        d.text(24, top + row * 40 + 23, f"token {row}", 13, "", "start")
        for name, left in places.items():
            for block in range(4):
                owner = 4 * row + block
                style = ("orange" if name == "out" else "lit") if owner == 9 else "plain"
                x, y = left + block * cell + 2, top + row * 40
                d.box(x, y, cell - 4, 34, str(owner), style)
    middle = {name: left + 1.5 * cell for name, left in places.items()}
    d.box(300, 200, 260, 32, "program 9 = 2 × 4 + 1: silu(gate) × up", "plain", "", 12.5)
    for name, target in (("gate", 340), ("up", 440)):
        d.arrow((middle[name], top + 114), (middle[name], 190), (target, 190), (target, 199))
    d.arrow((561, 216), (middle["out"], 216), (middle["out"], top + 115))
    return d.svg()


def slot_row(d: Drawing, y: float, name: str, pool: str, size: int = 1) -> None:
    """A pool of slots: a capital letter holds a token, a small one is idle, a dot is free."""
    styles = {"A": "lit", "B": "green", "C": "sky", "D": "orange"}
    left, cell = 150, 42
    d.text(24, y + 24, name, 13, "", "start")
    for i, owner in enumerate(pool):
        style = "plain" if owner == "." else styles.get(owner, "masked")
        d.box(left + i * cell + 2, y, cell - 4, 38, "" if owner == "." else owner, style)
    for start in range(0, len(pool), size) if size > 1 else ():
        d.box(left + start * cell - 1, y - 3, size * cell + 2, 44, style="panel")


def kv_pools() -> str:
    """Lesson 10: the same chats as slabs, with a token table, and as blocks."""
    d = Drawing(
        860,
        214,
        "A pool of 16 slots three ways. As slabs: A with 3 of its 5 slots written, a hole of 4, C "
        "with 4 of 5, a hole of 2; D with 5 tokens fits nowhere. With a token table: D's tokens "
        "are in any five free slots. As blocks of two slots: A, C and D own whole blocks anywhere, "
        "and at most one slot each is idle.",
    )
    slot_row(d, 18, "slabs", "AAAaa....CCCCc..")
    slot_row(d, 76, "token table", "AADADDCCDCDC....")
    slot_row(d, 134, "blocks of 2", "AACCDDAaDDCCDd..", size=2)
    words = "capital: a token · small letter: reserved, idle · empty: free"
    d.text(150, 200, words, 12, "soft", "start")
    return d.svg()


def write_kv() -> str:
    """Lesson 10: new tokens on their way into the pool, and the table that finds them again."""
    d = Drawing(
        860,
        318,
        "Four new tokens of two texts and a pool of eight blocks of two slots. The program of each "
        "token reads its slot and writes the token's key there: A's fifth token goes to slot 8, "
        "B's three tokens to slots 4, 5 and 6. The block table, one row a text, says where the "
        "keys are: A's in blocks 0, 1 and 4, B's in blocks 2 and 3.",
    )
    left, cell = 150, 42
    d.text(24, 48, "programs", 13, "", "start")
    for i, (name, slot) in enumerate((("A[4]", 8), ("B[0]", 4), ("B[1]", 5), ("B[2]", 6))):
        x = left + (3.5 + 1.5 * i) * cell
        d.box(x, 18, 56, 48, name, "lit" if name[0] == "A" else "green", f"slot {slot}")
        d.arrow((x + 28, 67), (left + (slot + 0.5) * cell, 129))
    slot_row(d, 132, "pool", "AAAABBB.A.......", size=2)
    for slot in range(16):
        d.text(left + (slot + 0.5) * cell, 190, str(slot), 11, "soft")
    for block in range(8):
        d.text(left + (2 * block + 1) * cell, 212, f"block {block}", 11, "soft")
    for row, (name, blocks) in enumerate((("A", (0, 1, 4)), ("B", (2, 3)))):
        y = 232 + 40 * row
        d.text(24, y + 21, f"block table, {name}", 13, "", "start")
        for i, block in enumerate(blocks):
            d.box(
                left + i * cell + 2, y, cell - 4, 32, str(block), "lit" if name == "A" else "green"
            )
    d.text(320, 253, "key i is in block table[i // 2], at offset i % 2", 12, "soft mono", "start")
    return d.svg()


def sampler_steps() -> str:
    """Lesson 14: what happens to a row of logits, in order."""
    d = Drawing(
        880,
        150,
        "The sampler, from left to right: logits; penalties for tokens already said; divide by "
        "the temperature; a threshold, the highest of those of top-k, top-p and min-p; add Gumbel "
        "noise to what passes; the largest is the next token.",
    )
    steps = [
        ("logits", "[V]", "plain"),
        ("penalties", "said before", "sky"),
        ("÷ temperature", "sharp or flat", "sky"),
        ("threshold", "top-k, top-p, min-p", "lit"),
        ("+ noise", "hash(seed, step, i)", "green"),
        ("argmax", "the next token", "orange"),
    ]
    w, gap = 122, 20
    for i, (name, note, style) in enumerate(steps):
        x = 22 + i * (w + gap)
        d.box(x, 46, w, 58, name, style, note, 12.5)
        if i:
            d.arrow((x - gap + 1, 75), (x - 2, 75))
    d.text(22, 28, "one row, one request", 13, "", "start")
    d.text(22 + 3.5 * (w + gap), 130, "what is below the threshold is out", 12, "soft", "start")
    return d.svg()


def sample_slices() -> str:
    """Lesson 14: who reads what when a row of the vocabulary is sampled without a sort."""
    d = Drawing(
        860,
        272,
        "A row of 49,152 logits in 24 slices of 2,048. First, 24 programs read one slice each: "
        "they find the maximum, then count and weigh what is above some levels under it, then list "
        "the tokens above the lowest level that can matter. Second, one program reads that short "
        "list only: it narrows the threshold by 16 pivots a pass, adds noise, and draws.",
    )
    d.text(24, 30, "one row of logits, in slices of 2,048", 13, "", "start")
    for i in range(12):
        x = 24 + i * 68
        d.box(x, 44, 62, 32, "…" if i == 10 else f"slice {23 if i == 11 else i}", "lit", "", 11.5)
        d.arrow((x + 31, 77), (x + 31, 99))
    d.box(24, 100, 810, 46, "a program for each slice", "plain", "maximum; count and mass; list")
    for x in (120, 340, 560):
        d.arrow((x, 147), (340 + (x - 340) * 0.5, 171))
    d.box(190, 172, 300, 32, "the candidates: often a few hundred", "sky", "", 12.5)
    d.arrow((491, 188), (539, 188))
    d.box(540, 166, 294, 46, "one program for the row", "plain", "16 pivots a pass, then noise")
    d.arrow((687, 213), (687, 229))
    d.box(617, 230, 140, 30, "next token", "orange", "", 12.5)
    return d.svg()


def attention_matrices() -> str:
    """Lesson 07: the matrices of attention, and what one program owns of them."""
    d = Drawing(
        860,
        286,
        "Six tokens. Q times K transposed gives a six by six score matrix, of which only the lower "
        "triangle is used; softmax of its rows gives the weights; the weights times V give the "
        "output O. One program owns two rows of Q, of the scores, of the weights and of O, and "
        "reads all of K and V.",
    )
    cell, top, words = 22, 112, ["The", "best", "thing", "about", "Paris", "is"]
    mine = (2, 3)

    def grid(x: float, y: float, rows: int, columns: int, style: Callable[[int, int], str]) -> None:
        for i in range(rows):
            for j in range(columns):
                d.box(x + j * cell, y + i * cell, cell - 3, cell - 3, "", style(i, j))

    def square(i: int, j: int) -> str:
        return "masked" if j > i else "lit" if i in mine else "plain"

    for i, word in enumerate(words):
        d.text(66, top + i * cell + 14, word, 12, "", "end")
        d.text(184 + i * cell + 10, top + 6 * cell + 14, word[:3], 9.5, "soft")
    grid(80, top, 6, 3, lambda i, j: "sky" if i in mine else "plain")
    grid(184, top - 3 * cell - 10, 3, 6, lambda i, j: "sky")
    grid(184, top, 6, 6, square)
    grid(416, top, 6, 6, square)
    grid(596, top, 6, 3, lambda i, j: "sky")
    grid(716, top, 6, 3, lambda i, j: "orange" if i in mine else "plain")
    d.text(112, top - 14, "Q", 13)
    d.text(184 + 6 * cell + 14, top - 40, "Kᵀ", 13, "", "start")
    d.arrow((322, top + 66), (408, top + 66))
    d.text(364, top + 42, "scale, mask,", 11, "soft")
    d.text(364, top + 56, "softmax", 11, "soft")
    for x, sign in ((570, "×"), (690, "=")):
        d.text(x, top + 72, sign, 18)
    for x, name in ((482, "weights"), (629, "V"), (749, "O")):
        d.text(x, top - 14, name, 13)
    d.text(184, top + 6 * cell + 34, "scores: row = query, column = key", 11, "soft", "start")
    for x, style, what in (
        (416, "sky", "read"), (486, "lit", "kept on the chip"), (630, "orange", "written"),
        (720, "masked", "the future"),
    ):  # fmt: skip
        d.box(x, top + 6 * cell + 22, 14, 14, "", style)
        d.text(x + 20, top + 6 * cell + 34, what, 11, "soft", "start")
    return d.svg()


def attention_groups() -> str:
    """Lesson 07: which key/value head serves which query heads."""
    d = Drawing(
        760,
        186,
        "Nine query heads and three key/value heads, as in SmolLM2. Query heads 0, 1 and 2 read "
        "key/value head 0; 3, 4 and 5 read head 1; 6, 7 and 8 read head 2.",
    )
    styles = ["lit", "orange", "green"]
    for head in range(9):
        x = 24 + head * 80
        d.box(x, 24, 70, 38, f"q {head}", styles[head // 3])
        d.arrow((x + 35, 63), (24 + (head // 3) * 240 + 75 + (head % 3) * 40, 107))
    for kv_head in range(3):
        d.box(24 + kv_head * 240, 108, 230, 38, f"k {kv_head}, v {kv_head}", styles[kv_head])
    d.text(24, 172, "query head h reads key/value head h // 3", 12, "soft", "start")
    return d.svg()


def qwen_blocks() -> str:
    """Lesson 12: what happens to q, k and v in Llama, Qwen2.5 and Qwen3."""
    d = Drawing(
        860,
        286,
        "The way to attention in three families, between a hidden state and the output linear. "
        "Llama 3.2 1B: the q, k, v linear makes 32 query heads and 8 key and 8 value heads of 64, "
        "then RoPE. Qwen2.5 0.5B: the same with a bias in the linear, 14 query heads and 2 and 2 "
        "of 64. Qwen3 0.6B: no bias; 16 query heads and 8 and 8 of 128, twice as wide as its "
        "hidden state; each head of q and of k is normed on its own before RoPE.",
    )
    rows = [
        ("Llama 3.2 1B", "2048", "q, k, v linear", "32 + 8 + 8 heads of 64", "", "", "2048"),
        ("Qwen2.5 0.5B", "896", "q, k, v linear + bias", "14 + 2 + 2 heads of 64", "", "", "896"),
        (
            "Qwen3 0.6B", "1024", "q, k, v linear", "16 + 8 + 8 heads of 128",
            "norm of q, k", "each head alone", "2048",
        ),
    ]  # fmt: skip
    for i, (name, hidden, linear, heads, norm, note, wide) in enumerate(rows):
        y = 34 + 84 * i
        d.text(24, y + 24, name, 13, "", "start")
        d.text(24, y + 42, f"hidden {hidden}", 11.5, "soft", "start")
        d.box(128, y, 186, 58, linear, "lit" if "bias" in linear else "plain", heads, 12.5)
        if norm:
            d.box(342, y, 126, 58, norm, "lit", note, 12.5)
            d.arrow((315, y + 29), (341, y + 29))
        d.box(496, y, 84, 58, "RoPE", "plain", "q and k", 12.5)
        d.arrow((469 if norm else 315, y + 29), (495, y + 29))
        d.box(608, y, 96, 58, "attention", "plain", "KV cache", 12.5)
        d.box(732, y, 104, 58, "output linear", "plain", f"{wide} → {hidden}", 12.5)
        d.arrow((581, y + 29), (607, y + 29))
        d.arrow((705, y + 29), (731, y + 29))
    return d.svg()


def llava_path() -> str:
    """Lesson 13: from a picture to tokens among the words, in shapes-llava's sizes."""
    d = Drawing(
        880,
        262,
        "From pixels to words. A picture of 96 by 96 pixels is cut into 36 patches of 16 by 16. "
        "Each is a row of 768 numbers, and one matrix makes 256 of them; a class token comes in "
        "front and a position is added. Six blocks of attention of all to all follow; the class "
        "token is dropped, and the projector's two linears make 36 rows of 576, the decoder's "
        "width. They take the places of 36 image tokens among the words of the prompt.",
    )
    for i in range(36):
        d.box(24 + i % 6 * 16, 32 + i // 6 * 16, 15, 15, "", "lit" if i in (14, 15, 20) else "sky")
    d.text(24, 148, "36 patches of 16 x 16", 11.5, "soft", "start")
    steps = [
        (160, 126, "patch matrix", "36 rows, 768 to 256"),
        (316, 126, "+ class token,\n+ positions", "37 rows of 256"),
        (472, 126, "6 blocks,\nall see all", "37 rows of 256"),
        (628, 126, "projector:\ntwo linears", "36 rows, 256 to 576"),
    ]
    for i, (x, w, words, note) in enumerate(steps):
        d.box(x, 46, w, 68, words, "lit", note, 12.5)
        d.arrow((x - 29 if i else 122, 80), (x - 1, 80))
    x, y, words = (
        24,
        188,
        ["...", "user", "image", "image", "...", "image", "What", "is", "in", "..."],
    )
    for word in words:
        w = 84
        d.box(x, y, w - 6, 36, word, "sky" if word == "image" else "plain", "", 12)
        x += w
    d.arrow((754, 80), (790, 80), (790, 160), (234, 160), (234, 187))
    d.arrow((318, 160), (318, 187))
    d.arrow((486, 160), (486, 187))
    d.text(
        24, 246, "the decoder's prompt: rows of 576, words and patches alike", 12, "soft", "start"
    )
    return d.svg()


def attention_traffic() -> str:
    """Lesson 07: what the torch operations move, and what one kernel moves."""
    d = Drawing(
        884,
        214,
        "Attention as five torch operations: Q K transposed reads q and k and writes the scores S; "
        "scale, mask and softmax each read a matrix S and write one; times V reads S and v and "
        "writes the result: S crosses eight times. As one kernel it reads q, k and v and writes "
        "the result.",
    )
    d.text(24, 30, "five operations: S crosses 8 times", 13, "", "start")
    d.text(676, 30, "one kernel: never", 13, "", "start")
    steps = [
        ("Q Kᵀ", 142, ["q", "k"], ["S"]),
        ("scale", 98, ["S"], ["S"]),
        ("mask", 98, ["S"], ["S"]),
        ("softmax", 98, ["S"], ["S"]),
        ("times V", 142, ["S", "v"], ["out"]),
    ]
    x = 24
    for name, width, reads, writes in steps:
        traffic(d, x, 44, width, name, reads, writes)
        x += width + 12
    traffic(d, 676, 44, 192, "attention", ["q", "k", "v"], ["out"])
    legend(d, 196, "a matrix")
    return d.svg()


def flash_loops() -> str:
    """Lesson 08: what travels in FlashAttention's two versions."""
    d = Drawing(
        860,
        336,
        "Two score matrices of four by four tiles, causal. Version 1 stands in a column: keys and "
        "values 1 stay on the chip while the blocks of queries 1, 2 and 3 come by, each with its "
        "output, maximum and total, which are read and written again. Version 2 stands in a row: "
        "queries 2 and their output, maximum and total stay on the chip while the blocks of keys "
        "0, 1 and 2 come by; the output is written once. Tiles above the diagonal are skipped.",
    )
    cell, gap, top = 46, 4, 96
    for version, left in ((1, 150), (2, 580)):
        title = ("keys outside, queries inside", "queries outside, keys inside")[version - 1]
        d.text(left - 126, 30, f"version {version}: {title}", 13.5, "", "start")
        for j in range(4):
            style = {1: "lit" if j == 1 else "plain", 2: "sky" if j < 3 else "plain"}[version]
            d.box(left + j * cell, top - 44, cell - gap, 34, f"K{j} V{j}", style, "", 11.5)
        for i in range(4):
            y = top + i * cell
            if version == 1:
                style, result = ("sky", "orange") if i >= 1 else ("plain", "plain")
            else:
                style = result = "lit" if i == 2 else "plain"
            d.box(left - 126, y, 50, cell - gap, f"Q{i}", style, "", 12)
            d.box(left - 72, y, 64, cell - gap, f"O{i}", result, "m, l", 12)
            for j in range(4):
                mine = j <= i and (j == 1 if version == 1 else i == 2)
                style = "masked" if j > i else "lit" if mine else "plain"
                turn = str(i if version == 1 else j + 1) if mine else ""
                d.box(left + j * cell, y, cell - gap, cell - gap, turn, style, "", 12)
    for x, style, what in (
        (24, "lit", "on the chip"), (130, "sky", "read"),
        (196, "orange", "read and written, for each block of keys"), (490, "masked", "skipped"),
    ):  # fmt: skip
        d.box(x, 302, 16, 16, "", style)
        d.text(x + 23, 315, what, 12, "soft", "start")
    return d.svg()


def nopad_tiles() -> str:
    """Lesson 08: packed queries of three sequences, and the tiles that programs take of them."""
    d = Drawing(
        800,
        268,
        "Thirteen packed rows of three sequences: A has rows 0 to 4, B 5 and 6, C 7 to 12. Tiles "
        "of four rows: A has two, with four rows and one; B one of two rows; C two, of four and of "
        "two. Each is one program, and no tile holds rows of two sequences. Programs 5 and 6 find "
        "nothing to do. Below, C's row of the block table, 3 and 0, leads to blocks 3 and 0 of "
        "the cache, where its keys lie.",
    )
    left, cell, rows, styles = 110, 44, "AAAAABBCCCCCC", {"A": "lit", "B": "orange", "C": "green"}
    d.text(24, 58, "packed rows", 12, "soft", "start")
    for i, name in enumerate(rows):
        d.box(left + i * cell, 36, cell - 4, 34, name, styles[name], "", 12)
        d.text(left + i * cell + 20, 28, str(i), 10, "soft")
    d.text(24, 112, "programs", 12, "soft", "start")
    tiles = [(0, 4, "A"), (4, 5, "A"), (5, 7, "B"), (7, 11, "C"), (11, 13, "C")]
    for program, (first, stop, name) in enumerate(tiles):
        width = (stop - first) * cell - 4
        d.box(left + first * cell, 92, width, 32, str(program), styles[name], "", 12)
    for i in range(2):
        d.box(left + (13 + i) * cell + 4, 92, cell - 8, 32, str(5 + i), "masked", "", 12)
    d.text(24, 178, "C's blocks", 12, "soft", "start")
    for i, block in enumerate((3, 0)):
        d.box(left + i * cell, 156, cell - 4, 34, str(block), "green", "", 12)
    d.text(24, 240, "KV cache", 12, "soft", "start")
    owners = ["C", "B", "", "C", "A", "A"]
    for block, name in enumerate(owners):
        words, style = (f"block {block}", styles[name]) if name else ("free", "masked")
        d.box(left + block * 100, 218, 92, 34, words, style, "", 12)
    d.arrow((left + 20, 191), (left + 346, 216))
    d.arrow((left + cell + 20, 191), (left + 46, 216))
    return d.svg()


def decoding_split() -> str:
    """Lesson 09: one chat on six multiprocessors, whole and in three parts."""
    d = Drawing(
        860,
        262,
        "Six multiprocessors and one chat of twelve blocks of keys with two key/value heads. "
        "Unsplit, multiprocessors 0 and 1 take twelve blocks each, one after the other, and four "
        "are idle. In three parts, all six take four blocks each, and a short merge follows: a "
        "third of the time.",
    )
    cell, height, top = 28, 26, 52
    for left, parts in ((64, 1), (540, 3)):
        words = "one program a head" if parts == 1 else "three parts"
        d.text(left, 30, words, 13, "", "start")
        for number in range(6):
            y = top + number * (height + 4)
            d.text(left - 10, y + 17, f"{number}", 11, "soft", "end")
            if number >= 2 * parts:
                d.box(left, y, 12 * cell - 3, height, "idle", "masked", "", 10.5)
                continue
            split, blocks = number // 2, 12 // parts
            for i in range(blocks):
                style = "orange" if number % 2 else "lit"
                d.box(left + i * cell, y, cell - 3, height, str(split * blocks + i), style, "", 10)
        if parts == 3:
            d.box(left + 4 * cell + 4, top, 70, 6 * (height + 4) - 4, "merge", "green", "", 12)
    d.text(28, 248, "time →", 11, "soft", "start")
    for x, style, what in (
        (120, "lit", "blocks of keys, head 0"), (300, "orange", "blocks of keys, head 1"),
    ):  # fmt: skip
        d.box(x, 236, 14, 14, "", style)
        d.text(x + 21, 248, what, 11, "soft", "start")
    return d.svg()


def decoding_parts() -> str:
    """Lesson 09: from the block table to the parts of one sequence, and to their merge."""
    d = Drawing(
        860,
        318,
        "One sequence of ten blocks of keys in three parts. Its row of the block table leads to "
        "blocks 7, 2, 9, 0, 5, 11, 3, 8, 1 and 6 of the pool. Program 0 reads the first three, "
        "program 1 the next three, program 2 the last four. Each writes an output o and a "
        "log-sum l, and the merge turns the three pairs into the result.",
    )
    blocks, cuts, styles = [7, 2, 9, 0, 5, 11, 3, 8, 1, 6], [0, 3, 6, 10], ["lit", "orange", "sky"]
    left, cell = 130, 70
    d.text(24, 46, "block table", 12, "soft", "start")
    d.text(24, 122, "pool", 12, "soft", "start")
    part_of = {}
    for i, block in enumerate(blocks):
        part_of[block] = sum(i >= cut for cut in cuts[1:3])
        d.box(left + i * cell, 24, cell - 6, 34, str(block), styles[part_of[block]], "", 12)
    for block in range(12):
        style = styles[part_of[block]] if block in part_of else "masked"
        d.box(left + block * 58.4, 100, 52, 34, str(block), style, "", 12)
    for i in (0, 3, 6):  # the first of each part; all would hide the picture
        d.arrow((left + i * cell + 32, 59), (left + blocks[i] * 58.4 + 26, 98))
    for split in range(3):
        x, count = left + split * 236, cuts[split + 1] - cuts[split]
        note = f"{count} blocks of keys"
        d.box(x, 166, 216, 46, f"program (head, part {split})", styles[split], note, 12)
        d.arrow((x + 108, 213), (x + 108, 238))
        d.box(x + 48, 240, 120, 28, f"o{'₀₁₂'[split]}, l{'₀₁₂'[split]}", "plain", "", 12)
    d.text(24, 194, "programs", 12, "soft", "start")
    d.text(24, 258, "parts", 12, "soft", "start")
    d.box(left, 282, 688, 26, "merge: softmax of the l, times the o", "green", "", 12)
    for split in range(3):
        x = left + split * 236 + 108
        d.arrow((x, 269), (x, 281))
    return d.svg()


def matmul_tiles() -> str:
    """Lesson 06: what the program of one tile of the result reads, step by step along K."""
    d = Drawing(
        700,
        384,
        "One program of the tiled product owns one tile of y, tokens by outputs. Going along K in "
        "four steps it reads the blocks of x in the tile's rows, and the blocks of the transposed "
        "W in the tile's columns. Step 2 is marked: one block of each, multiplied and added to "
        "the tile's sums.",
    )
    cell, gap = 56, 4
    left_x, left_y, top_w, top_y = 100, 440, 36, 210
    d.text(left_x + 2 * cell, 200, "x: T rows, K columns", 13)
    d.text(left_y + 2 * cell, 24, "Wᵀ: K rows, N columns", 13)
    for i in range(3):
        for j in range(4):
            style = "plain" if i != 1 else "orange" if j == 2 else "sky"
            d.box(left_x + j * cell, top_y + i * 46, cell - gap, 42, "", style)
            style = "lit" if (i, j) == (1, 1) else "plain"
            d.box(left_y + j * cell, top_y + i * 46, cell - gap, 42, "", style)
    for k in range(4):
        for j in range(4):
            style = "plain" if j != 1 else "orange" if k == 2 else "sky"
            d.box(left_y + j * cell, top_w + k * 40, cell - gap, 36, "", style)
        d.text(left_x + (k + 0.5) * cell - 2, 364, f"step {k}", 11, "soft")
        d.text(left_y - 10, top_w + k * 40 + 23, f"step {k}", 11, "soft", "end")
    d.text(left_y + 2 * cell, 364, "y: T rows, N columns", 13)
    d.arrow((left_x + 3 * cell, top_y + 67), (left_y + cell - 3, top_y + 67))
    d.arrow((left_y + 1.5 * cell - 2, top_w + 117), (left_y + 1.5 * cell - 2, top_y + 45))
    for i, (style, words) in enumerate(
        (("lit", "sums of program (1, 1)"), ("sky", "read in other steps"), ("orange", "now"))
    ):
        d.box(24, 40 + 28 * i, 16, 16, "", style)
        d.text(48, 53 + 28 * i, words, 12, "soft", "start")
    return d.svg()


def matvec_rows() -> str:
    """Lesson 06: which rows of W a program owns when there is one token."""
    d = Drawing(
        820,
        290,
        "The rows of W, two to a program: program 0 owns rows 0 and 1, program 1 rows 2 and 3, "
        "program 2 rows 4 and 5. Program 1 loads both of its rows whole, multiplies them by x, "
        "which every program reads, and writes y 2 and y 3.",
    )
    left, wide, top = 150, 340, 92
    d.text(24, 48, "x: one row of K", 13, "", "start")
    d.box(left, 28, wide, 32, "x[0] … x[K - 1]", "sky", "", 12)
    for row in range(6):
        mine, y = row in (2, 3), top + row * 28 + 6 * (row // 2)
        d.text(24, y + 17, f"row {row} of W", 12, "" if mine else "soft", "start")
        d.box(left, y, wide, 24, "", "lit" if mine else "plain")
        d.arrow((left + wide + 2, y + 12), (548, y + 12))
        d.arrow((662, y + 12), (694, y + 12))
        d.box(696, y, 96, 24, f"y[{row}]", "orange" if mine else "plain", "", 12)
        if row % 2 == 0:
            d.box(550, y, 110, 52, f"program {row // 2}", "plain", "multiply, sum", 12)
    d.arrow((left + wide + 1, 44), (605, 44), (605, top - 2))
    d.text(616, 60, "read by every program", 11, "soft", "start")
    return d.svg()


def decode_graph() -> str:
    """Lesson 15: one step around a graph, and what stays at a fixed address."""
    d = Drawing(
        880,
        262,
        "The host writes ids, positions, slots, lengths and the block table into pinned memory; "
        "they are copied into tensors at fixed addresses. One launch replays the graph, which "
        "holds the model and the sampler and writes the tokens, at a fixed address too. The next "
        "replay reads them there; a copy goes to the host, which reads it one step late.",
    )
    d.text(24, 30, "host", 12, "soft", "start")
    d.text(24, 116, "GPU", 12, "soft", "start")
    d.parts.append('<path d="M24 92L856 92" class="panel"/>')
    d.box(72, 22, 190, 54, "pinned memory", "plain", "written anew each step", 12.5)
    d.box(330, 22, 190, 54, "replay", "orange", "one launch", 12.5)
    d.box(652, 22, 190, 54, "text, stop strings", "plain", "one step late", 12.5)
    for i, name in enumerate(["ids, positions,\nslots", "lengths,\nblock table"]):
        d.box(72 + 97 * i, 128, 93, 54, name, "sky", "", 11.5)
    d.text(167, 202, "inputs at fixed addresses", 11.5, "soft")
    d.box(330, 128, 190, 54, "the graph:\nmodel, then sampler", "lit", "", 12.5)
    d.box(652, 128, 190, 54, "tokens", "sky", "at a fixed address", 12.5)
    d.arrow((167, 77), (167, 126))
    d.text(176, 108, "copy", 11, "soft", "start")
    d.arrow((425, 77), (425, 126))
    d.arrow((265, 155), (328, 155))
    d.arrow((521, 155), (650, 155))
    d.arrow((747, 127), (747, 78))
    d.text(756, 108, "copy", 11, "soft", "start")
    d.arrow((747, 183), (747, 232), (425, 232), (425, 184))
    d.text(586, 224, "the next replay reads them here", 11.5, "soft")
    return d.svg()


def step_budget() -> str:
    """Lesson 16: what the steps of a budget of ten tokens hold."""
    d = Drawing(
        700,
        252,
        "Five steps with room for ten tokens each. Step 0: three tokens of A's prompt. Steps 1 and "
        "2: one new token of A, then nine tokens of B's prompt. Step 3: one of A, the last seven "
        "of B's prompt, then two of C's. Step 4: one token each of A and B, and C's last one.",
    )
    styles = {"A": "lit", "B": "green", "C": "sky", ".": "masked"}
    d.text(110, 26, "at most ten tokens in a step: a box is a token", 12, "soft", "start")
    notes = ("A's prompt", "A decodes, B's prompt", "the same", "C gets the rest", "nobody waits")
    for i, tokens in enumerate(("AAA", "ABBBBBBBBB", "ABBBBBBBBB", "ABBBBBBBCC", "ABC")):
        y = 38 + 40 * i
        d.text(24, y + 22, f"step {i}", 13, "", "start")
        for j, owner in enumerate(tokens.ljust(10, ".")):
            d.box(110 + 40 * j, y, 36, 32, "" if owner == "." else owner, styles[owner])
        d.text(524, y + 21, notes[i], 12, "soft", "start")
    return d.svg()


FIGURES: dict[str, Callable[[], str]] = {
    "map.svg": engine_map,
    **{f"map_{n:02d}.svg": partial(engine_map, n) for n in range(LAST_LESSON + 1)},
    "package_map.svg": package_map,
    "decode_loop.svg": decode_loop,
    "programs.svg": programs,
    "rms_norm_traffic.svg": rms_norm_traffic,
    "skip_rms_norm_traffic.svg": skip_rms_norm_traffic,
    "softmax_traffic.svg": softmax_traffic,
    "online_lanes.svg": online_lanes,
    "rope_layouts.svg": rope_layouts,
    "rope_token.svg": rope_token,
    "swiglu_traffic.svg": swiglu_traffic,
    "swiglu_grid.svg": swiglu_grid,
    "matmul_tiles.svg": matmul_tiles,
    "matvec_rows.svg": matvec_rows,
    "kv_pools.svg": kv_pools,
    "write_kv.svg": write_kv,
    "sampler_steps.svg": sampler_steps,
    "decode_graph.svg": decode_graph,
    "sample_slices.svg": sample_slices,
    "step_budget.svg": step_budget,
    "attention_matrices.svg": attention_matrices,
    "attention_groups.svg": attention_groups,
    "llama_layer.svg": layer_diagram,
    "qwen_blocks.svg": qwen_blocks,
    "llava_path.svg": llava_path,
    "attention_traffic.svg": attention_traffic,
    "flash_loops.svg": flash_loops,
    "nopad_tiles.svg": nopad_tiles,
    "decoding_split.svg": decoding_split,
    "decoding_parts.svg": decoding_parts,
}


def main(folder: Path) -> None:
    """Write every figure into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        (folder / name).write_text(draw(), encoding="utf-8", newline="\n")
    print(f"{len(FIGURES)} figures in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
