"""Exercises of lesson 13: patches in a kernel, attention of all to all, places, shared pictures."""

import torch

from litellama.course.exercise import Case, Exercise, Maker, Mistake

LESSON = "13_llava"


# --- take_patches --------------------------------------------------------------------------------


def take_patches(pixels: torch.Tensor, P: int) -> torch.Tensor:
    return _grid(pixels, P).permute(1, 3, 0, 2, 4).flatten(2).flatten(0, 1)


def _grid(pixels: torch.Tensor, P: int, top: int = 0, left: int = 0) -> torch.Tensor:
    """[3, rows of patches, P, columns of patches, P], from the corner (top, left) on."""
    _, height, width = pixels.shape
    down, across = height // P, width // P
    whole = pixels[:, top : top + down * P, left : left + across * P]
    return whole.unflatten(1, (down, P)).unflatten(3, (across, P))


def _ordered(*order: int):
    """take_patches with the axes of the grid in another order."""
    return lambda pixels, P: _grid(pixels, P).permute(order).flatten(2).flatten(0, 1)


def _viewed(pixels, P):
    _, height, width = pixels.shape
    down, across = height // P, width // P
    whole = pixels[:, : down * P, : across * P]
    return whole.reshape(down * across, 3 * P * P)


def _cut_from_the_middle(pixels, P):
    _, height, width = pixels.shape
    return (
        _grid(pixels, P, height % P // 2, width % P // 2)
        .permute(1, 3, 0, 2, 4)
        .reshape(-1, 3 * P * P)
    )


def _first_channel(pixels, P):
    return take_patches(pixels[:1].expand(3, -1, -1), P)


def _no_rest(pixels, P):
    """Patches are found with the picture's edge divided by P as the length of its rows."""
    channels, height, width = pixels.shape
    down, across = height // P, width // P
    flat = pixels.reshape(channels, -1)[:, : down * across * P * P]
    return take_patches(flat.view(channels, down * P, across * P), P)


def _pixels(height: int, width: int, P: int, half: bool = False):
    def make(m: Maker):
        return m.normal(3, height, width, dtype=m.half if half else torch.float32), P

    return make


TAKE_PATCHES = Exercise(
    name="take_patches",
    lesson=LESSON,
    title="A picture's patches, in a kernel",
    difficulty=3,
    minutes=25,
    reference=take_patches,
    cases=(
        Case("one patch", _pixels(4, 4, 4)),
        Case("2 x 2 patches", _pixels(8, 8, 4)),
        Case("2 x 3 patches", _pixels(8, 12, 4)),
        Case("4 x 2 patches of 3 x 3", _pixels(12, 6, 3), ragged=True),
        Case("a rest that is no patch", _pixels(17, 22, 5), ragged=True),
        Case("patches of one pixel", _pixels(3, 4, 1), ragged=True),
        Case("float16", _pixels(14, 21, 7, half=True), ragged=True),
    ),
    mistakes=(
        Mistake(
            "cut along the memory",
            _viewed,
            "the pixels are taken as they lie in memory, 3 P P at a time. A patch is P short "
            "pieces of P neighbouring pixels, W apart, in each of three planes.",
        ),
        Mistake(
            "channels last",
            _ordered(1, 3, 2, 4, 0),
            "the three colours of a pixel stand side by side. A row has all red numbers of its "
            "patch, then the green, then the blue.",
        ),
        Mistake(
            "patches column by column",
            _ordered(3, 1, 0, 2, 4),
            "the patches are numbered down the columns. Number 1 is to the right of number 0.",
        ),
        Mistake(
            "pixels column by column",
            _ordered(1, 3, 0, 4, 2),
            "each patch is transposed: its pixels go down the columns. They go along the rows.",
        ),
        Mistake(
            "rows in front of channels",
            _ordered(1, 3, 2, 0, 4),
            "within a patch a line of red is followed by the same line of green. All lines of red "
            "come first: the channel is i // (P * P).",
        ),
        Mistake(
            "one channel for all",
            _first_channel,
            "all three channels are the first one. The planes lie H * W numbers apart.",
        ),
        Mistake(
            "the rest forgotten",
            _no_rest,
            "the lines of the picture are taken to be as long as its patches together. Where a "
            "rest is left over at the right they are longer: a line has W pixels.",
        ),
        Mistake(
            "the rest on both sides",
            _cut_from_the_middle,
            "the patches begin in the middle of the rest. They begin at the top left, and the rest "
            "at the right and at the bottom is left out.",
        ),
    ),
    hints=(
        "Program number n owns one row of the result. Where in the picture is its corner? "
        "n // ACROSS patches down, n % ACROSS patches to the right.",
        "Number i of the row belongs to channel i // (P * P), and within the patch to line "
        "i // P % P and column i % P.",
        "A pixel of channel c, line y, column x lies at (c * H + y) * W + x.",
        "y = program // ACROSS * P + i // P % P; x = program % ACROSS * P + i % P; load from "
        "pixels_ptr + (i // (P * P) * H + y) * W + x with mask i < 3 * P * P, and store at "
        "out_ptr + program * 3 * P * P + i.",
    ),
)


# --- vision_attention ----------------------------------------------------------------------------


def _attend(x, qkv_weight, qkv_bias, heads, *, scale=None, causal=False, axis=-1, cut="3HD"):
    """What the heads have mixed, [T, heads, D]."""
    T, hidden = x.shape
    D = hidden // heads
    qkv = x @ qkv_weight.T + qkv_bias
    if cut == "3HD":
        q, k, v = qkv.view(T, 3, heads, D).unbind(1)
    elif cut == "H3D":
        q, k, v = qkv.view(T, heads, 3, D).unbind(2)
    else:
        q, k, v = qkv.view(T, 3, D, heads).mT.unbind(1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * (D**-0.5 if scale is None else scale(D, hidden))
    if causal:
        scores = scores.masked_fill(scores.new_ones(T, T).triu(1).bool(), float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(axis), v)


def vision_attention(
    x: torch.Tensor,
    qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor,
    out_weight: torch.Tensor,
    out_bias: torch.Tensor,
    heads: int,
) -> torch.Tensor:
    return _attend(x, qkv_weight, qkv_bias, heads).flatten(1) @ out_weight.T + out_bias


def _attention_with(**changes):
    def attention(x, qkv_weight, qkv_bias, out_weight, out_bias, heads):
        mixed = _attend(x, qkv_weight, qkv_bias, heads, **changes)
        return mixed.flatten(1) @ out_weight.T + out_bias

    return attention


def _heads_not_back(x, qkv_weight, qkv_bias, out_weight, out_bias, heads):
    mixed = _attend(x, qkv_weight, qkv_bias, heads)
    return mixed.transpose(0, 1).reshape(x.shape) @ out_weight.T + out_bias


def _no_output(x, qkv_weight, qkv_bias, out_weight, out_bias, heads):
    return _attend(x, qkv_weight, qkv_bias, heads).flatten(1)


def _patches_rows(T: int, heads: int, D: int, size: float = 1.0):
    def make(m: Maker):
        hidden = heads * D
        weights = m.normal(3 * hidden, hidden, scale=size * hidden**-0.5), m.normal(3 * hidden)
        out = m.normal(hidden, hidden, scale=hidden**-0.5), m.normal(hidden)
        return m.normal(T, hidden), *weights, *out, heads

    return make


VISION_ATTENTION = Exercise(
    name="vision_attention",
    lesson=LESSON,
    title="Everybody sees everybody",
    difficulty=2,
    minutes=20,
    reference=vision_attention,
    cases=(
        Case("one head", _patches_rows(5, 1, 8)),
        Case("3 heads of 10", _patches_rows(10, 3, 10)),
        Case("4 heads of 6", _patches_rows(7, 4, 6)),
        Case("one row", _patches_rows(1, 2, 6)),
        Case("scores that are large", _patches_rows(17, 5, 4, size=2.0)),
    ),
    mistakes=(
        Mistake(
            "causal",
            _attention_with(causal=True),
            "there is a causal mask. Patches have no before and after: each sees all.",
        ),
        Mistake(
            "not scaled",
            _attention_with(scale=lambda D, hidden: 1.0),
            "the scores are not divided by the root of the heads' width D.",
        ),
        Mistake(
            "scaled by hidden",
            _attention_with(scale=lambda D, hidden: hidden**-0.5),
            "the scores are divided by the root of hidden. A head's score is a sum over its D "
            "columns: divide by the root of D.",
        ),
        Mistake(
            "scaled twice",
            _attention_with(scale=lambda D, hidden: 1 / D),
            "the scores are divided by D, as if the root were taken twice or not at all.",
        ),
        Mistake(
            "heads before q, k, v",
            _attention_with(cut="H3D"),
            "the 3 * hidden outputs are cut into heads first. All of q comes first, then all of k, "
            "then all of v: view(T, 3, heads, D).",
        ),
        Mistake(
            "heads and columns exchanged",
            _attention_with(cut="3DH"),
            "within q the columns are cut as D groups of heads. The head comes first: "
            "view(T, 3, heads, D).",
        ),
        Mistake(
            "softmax over the queries",
            _attention_with(axis=-2),
            "the weights of a query do not sum to 1, those of a key do: the softmax runs along the "
            "queries. It belongs on the keys' axis.",
        ),
        Mistake(
            "heads not put back",
            _heads_not_back,
            "the mixed heads are [heads, T, D] and were reshaped to [T, hidden] as they lie. "
            "Transpose back to [T, heads, D] first.",
        ),
        Mistake(
            "no output linear",
            _no_output,
            "the heads are right, and the output linear is missing.",
        ),
    ),
    hints=(
        "It is lesson 07's attention with no mask, and as many key heads as query heads.",
        "qkv = F.linear(x, qkv_weight, qkv_bias).view(T, 3, heads, D), and q, k, v are its slices "
        "along the second axis.",
        "F.scaled_dot_product_attention takes [heads, T, D] and has no mask unless asked.",
        "q, k, v = qkv.permute(1, 2, 0, 3); mixed = F.scaled_dot_product_attention(q, k, v); "
        "F.linear(mixed.transpose(0, 1).flatten(1), out_weight, out_bias)",
    ),
)


# --- place_features ------------------------------------------------------------------------------


def place_features(
    embedded: torch.Tensor, token_ids: torch.Tensor, features: torch.Tensor, image_token_id: int
) -> torch.Tensor:
    out = embedded.clone()
    out[token_ids == image_token_id] = features.flatten(0, 1)
    return out


def _placing(change):
    """place_features with other rows, made of the features and of how many places there are."""

    def place(embedded, token_ids, features, image_token_id):
        out = embedded.clone()
        here = token_ids == image_token_id
        out[here] = change(features, out[here])
        return out

    return place


def _at_the_front(embedded, token_ids, features, image_token_id):
    out = embedded.clone()
    rows = features.flatten(0, 1)
    out[: len(rows)] = rows
    return out


def _from_the_first_on(embedded, token_ids, features, image_token_id):
    """One run of rows from the first image token on, over the words between the pictures."""
    out = embedded.clone()
    rows = features.flatten(0, 1)
    start = int((token_ids == image_token_id).nonzero()[0]) if len(rows) else 0
    out[start : start + len(rows)] = rows
    return out


def _prompt(*runs: int, tokens: int = 4, hidden: int = 6):
    """Runs of words with a picture between one and the next."""

    def make(m: Maker):
        ids: list[int] = []
        for i, run in enumerate(runs):
            ids += [7] * tokens * (i > 0) + [(3 * j + i) % 7 for j in range(run)]
        features = m.normal(len(runs) - 1, tokens, hidden)
        return m.normal(len(ids), hidden), torch.tensor(ids), features, 7

    return make


PLACE_FEATURES = Exercise(
    name="place_features",
    lesson=LESSON,
    title="Pictures among the words",
    difficulty=2,
    minutes=10,
    reference=place_features,
    cases=(
        Case("one picture between words", _prompt(3, 2)),
        Case("a picture at the start", _prompt(0, 5, tokens=3)),
        Case("two pictures, with words between", _prompt(2, 3, 1, tokens=5)),
        Case("three pictures, two of them neighbours", _prompt(1, 0, 2, 4, tokens=3)),
        Case("no picture", _prompt(4)),
    ),
    mistakes=(
        Mistake(
            "added",
            _placing(lambda features, old: old + features.flatten(0, 1)),
            "the features are added to the embedding of the image token. They replace it.",
        ),
        Mistake(
            "the first picture for all",
            _placing(lambda f, old: f[:1].expand(len(f), -1, -1).flatten(0, 1)),
            "every picture's places get the features of the first one.",
        ),
        Mistake(
            "pictures in turns",
            _placing(lambda f, old: f.transpose(0, 1).flatten(0, 1)),
            "the pictures take turns: the first row of each, then the second of each. All rows of "
            "the first picture come first.",
        ),
        Mistake(
            "backwards",
            _placing(lambda f, old: f.flatten(0, 1).flip(0)),
            "the rows are placed in the reverse order.",
        ),
        Mistake(
            "one row for all",
            _placing(lambda f, old: f.mean(1, keepdim=True).expand_as(f).flatten(0, 1)),
            "each picture's places all get the mean of its rows. Each place has its own row.",
        ),
        Mistake(
            "at the front",
            _at_the_front,
            "the features are at the start of the prompt. They belong where token_ids is "
            "image_token_id.",
        ),
        Mistake(
            "in one run",
            _from_the_first_on,
            "all features follow the first image token without a gap, over the words between two "
            "pictures. Each goes where an image token stands.",
        ),
        Mistake(
            "nothing placed",
            lambda embedded, token_ids, features, image_token_id: embedded,
            "the embeddings are as they were; no feature is in them.",
        ),
    ),
    hints=(
        "Which rows are to be replaced? token_ids == image_token_id, as many as the pictures have "
        "rows together.",
        "The features in the order of the places are features.flatten(0, 1).",
        "A tensor can be indexed by a mask on the left of an assignment. Take a clone first.",
        "out = embedded.clone(); out[token_ids == image_token_id] = features.flatten(0, 1)",
    ),
)


# --- shared_tokens -------------------------------------------------------------------------------


def _leading(same: torch.Tensor) -> int:
    """How many are true before the first that is not."""
    return int(same.long().cumprod(0).sum())


def _equal(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    n = min(len(a), len(b))
    return a[:n] == b[:n]


def _found(a_ids, a_pictures, b_ids, b_pictures) -> int:
    return _leading(_equal(a_ids, b_ids) & _equal(a_pictures, b_pictures))


def shared_tokens(
    a_ids: torch.Tensor,
    a_pictures: torch.Tensor,
    b_ids: torch.Tensor,
    b_pictures: torch.Tensor,
    block_size: int,
) -> int:
    return _found(a_ids, a_pictures, b_ids, b_pictures) // block_size * block_size


def _blocks_anywhere(a_ids, a_pictures, b_ids, b_pictures, block_size):
    same = _equal(a_ids, b_ids) & _equal(a_pictures, b_pictures)
    whole = same[: len(same) // block_size * block_size].view(-1, block_size).all(1)
    return int(whole.sum()) * block_size


def _two_prompts(before: int, tokens: int, after: int, shown: tuple, words_agree: int, size: int):
    """Two prompts of words, a picture and words; shown: the numbers of their pictures."""

    def make(m: Maker):
        words = torch.arange(after) + 20
        other = torch.where(torch.arange(after) < words_agree, words, words + 50)
        made: list[torch.Tensor] = []
        for number, tail in zip(shown, (words, other), strict=True):
            front = torch.arange(before) + 10
            picture = torch.full((tokens,), 7)
            at = torch.zeros(before + tokens + after, dtype=torch.int64)
            at[before : before + tokens] = number
            made += [torch.cat([front, picture, tail]), at]
        return *made, size

    return make


SHARED_TOKENS = Exercise(
    name="shared_tokens",
    lesson=LESSON,
    title="How much of a picture is in the cache",
    difficulty=3,
    minutes=15,
    reference=shared_tokens,
    outputs=("tokens",),
    cases=(
        Case("the same picture, other words", _two_prompts(5, 9, 6, (1, 1), 2, 4)),
        Case("another picture", _two_prompts(6, 9, 7, (1, 2), 7, 4)),
        Case("another picture from the start on", _two_prompts(0, 12, 5, (3, 1), 5, 4)),
        Case("blocks of 8", _two_prompts(9, 12, 9, (2, 2), 5, 8)),
        Case("blocks of one token", _two_prompts(3, 5, 4, (1, 1), 1, 1)),
        Case("the same words after another picture", _two_prompts(4, 4, 16, (1, 2), 16, 4)),
    ),
    mistakes=(
        Mistake(
            "pictures not compared",
            lambda a, ap, b, bp, size: _leading(_equal(a, b)) // size * size,
            "only the ids are compared. All pictures have the same ids: the second prompt would be "
            "answered from the first one's picture.",
        ),
        Mistake(
            "parts of blocks",
            lambda a, ap, b, bp, size: _found(a, ap, b, bp),
            "a block that is equal in part is counted. Only whole blocks are found.",
        ),
        Mistake(
            "rounded up",
            lambda a, ap, b, bp, size: -(-_found(a, ap, b, bp) // size) * size,
            "the last block is counted whole, though it is equal in part only: round down.",
        ),
        Mistake(
            "blocks after a difference",
            _blocks_anywhere,
            "equal blocks behind a different one are counted. Keys and values depend on all that "
            "came before: after the first difference nothing is shared.",
        ),
        Mistake(
            "blocks, not tokens",
            lambda a, ap, b, bp, size: _found(a, ap, b, bp) // size,
            "this is the number of blocks. Tokens are asked for: times block_size.",
        ),
        Mistake(
            "words only",
            lambda a, ap, b, bp, size: (
                _leading(_equal(a, b) & (_equal(ap, bp) & (ap[: len(_equal(a, b))] == 0)))
                // size
                * size
            ),
            "the count ends where a picture begins. The same picture is found like words are.",
        ),
    ),
    hints=(
        "A token is the same if its id is the same and its picture is.",
        "Count from the start to the first difference: a cumulative product of zeros and ones "
        "falls to 0 there and stays.",
        "Then round down to whole blocks: n // block_size * block_size.",
        "n = min(len(a_ids), len(b_ids)); same = (a_ids[:n] == b_ids[:n]) & (a_pictures[:n] == "
        "b_pictures[:n]); int(same.long().cumprod(0).sum()) // block_size * block_size",
    ),
)


EXERCISES = (TAKE_PATCHES, VISION_ATTENTION, PLACE_FEATURES, SHARED_TOKENS)
