"""Proofs of lesson 13's exercises: slips in the solutions, and other right answers."""

import torch
from proof import Proof, wrong


def patches_by_unfold(pixels, P):
    rows = torch.nn.functional.unfold(pixels[None].float(), kernel_size=P, stride=P)
    return rows[0].T.to(pixels.dtype)


def patches_one_by_one(pixels, P):
    _, height, width = pixels.shape
    corners = [(y, x) for y in range(height // P) for x in range(width // P)]
    return torch.stack([pixels[:, y * P :, x * P :][:, :P, :P].reshape(-1) for y, x in corners])


def attention_by_head(x, qkv_weight, qkv_bias, out_weight, out_bias, heads):
    D = x.shape[1] // heads
    q, k, v = (x @ qkv_weight.T + qkv_bias).chunk(3, dim=1)
    out = out_bias.expand(len(x), -1)
    for head in range(heads):
        here = slice(head * D, (head + 1) * D)
        weights = (q[:, here] @ k[:, here].T / D**0.5).softmax(1)
        out = out + weights @ v[:, here] @ out_weight[:, here].T
    return out


def placed_one_by_one(embedded, token_ids, features, image_token_id):
    rows = iter(features.reshape(-1, embedded.shape[1]))
    pairs = zip(embedded, token_ids.tolist(), strict=True)
    return torch.stack([next(rows) if t == image_token_id else row for row, t in pairs])


def shared_block_by_block(a_ids, a_pictures, b_ids, b_pictures, block_size):
    found = 0
    a = list(zip(a_ids.tolist(), a_pictures.tolist(), strict=True))
    b = list(zip(b_ids.tolist(), b_pictures.tolist(), strict=True))
    while found + block_size <= min(len(a), len(b)):
        here = slice(found, found + block_size)
        if a[here] != b[here]:
            break
        found += block_size
    return found


_ADDRESS = "(channel * H + y) * W + x"
_QKV = "qkv = F.linear(x, qkv_weight, qkv_bias).view(T, 3, heads, hidden // heads)"
_ATTEND = "F.scaled_dot_product_attention(q, k, v)"
_SAME = "same = (a_ids[:n] == b_ids[:n]) & (a_pictures[:n] == b_pictures[:n])"

PROOFS = {
    "take_patches": Proof(
        wrong=(
            wrong(
                "channels last",
                "channels last",
                ("channel = i // (P * P)", "channel = i % 3"),
                ("i // P % P", "i // (3 * P)"),
                ("% ACROSS * P + i % P", "% ACROSS * P + i // 3 % P"),
            ),
            wrong(
                "down the columns",
                "patches column by column",
                ("program // ACROSS * P", "program % (H // P) * P"),
                ("program % ACROSS * P", "program // (H // P) * P"),
            ),
            wrong(
                "transposed",
                "pixels column by column",
                ("% ACROSS * P + i % P", "% ACROSS * P + i // P % P"),
                ("// ACROSS * P + i // P % P", "// ACROSS * P + i % P"),
            ),
            wrong("one plane", "one channel for all", (_ADDRESS, "y * W + x")),
            wrong(
                "lines of channels",
                "rows in front of channels",
                ("channel = i // (P * P)", "channel = i // P % 3"),
                ("i // P % P", "i // (3 * P)"),
            ),
            wrong(
                "from the middle",
                "the rest on both sides",
                (_ADDRESS, "(channel * H + y + H % P // 2) * W + x + W % P // 2"),
            ),
        ),
        right=(patches_by_unfold, patches_one_by_one),
    ),
    "vision_attention": Proof(
        wrong=(
            wrong(
                "causal",
                "causal",
                (_ATTEND, "F.scaled_dot_product_attention(q, k, v, is_causal=True)"),
            ),
            wrong(
                "no scale",
                "not scaled",
                (_ATTEND, "F.scaled_dot_product_attention(q, k, v, scale=1)"),
            ),
            wrong(
                "hidden", "scaled by hidden", (_ATTEND, "(q @ k.mT / hidden**0.5).softmax(-1) @ v")
            ),
            wrong(
                "heads first",
                "heads before q, k, v",
                (_QKV, _QKV.replace("3, heads,", "heads, 3,")),
                ("permute(1, 2, 0, 3)", "permute(2, 1, 0, 3)"),
            ),
            wrong("not put back", "heads not put back", ("mixed.transpose(0, 1)", "mixed")),
            wrong(
                "queries",
                "softmax over the queries",
                (_ATTEND, "(q @ k.mT * (hidden // heads) ** -0.5).softmax(-2) @ v"),
            ),
        ),
        right=(attention_by_head,),
    ),
    "place_features": Proof(
        wrong=(
            wrong("added", "added", ("image_token_id] =", "image_token_id] +=")),
            wrong(
                "turns",
                "pictures in turns",
                ("features.flatten", "features.transpose(0, 1).flatten"),
            ),
            wrong(
                "first",
                "the first picture for all",
                ("features.flatten", "features[:1].expand_as(features).flatten"),
            ),
            wrong(
                "front",
                "at the front",
                (
                    "out[token_ids == image_token_id]",
                    "out[: features.shape[0] * features.shape[1]]",
                ),
            ),
        ),
        right=(placed_one_by_one,),
    ),
    "shared_tokens": Proof(
        wrong=(
            wrong("ids", "pictures not compared", (_SAME, "same = a_ids[:n] == b_ids[:n]")),
            wrong("parts", "parts of blocks", ("shared // block_size * block_size", "shared")),
            wrong(
                "up",
                "rounded up",
                ("shared // block_size * block_size", "-(-shared // block_size) * block_size"),
            ),
            wrong(
                "blocks",
                "blocks, not tokens",
                ("shared // block_size * block_size", "shared // block_size"),
            ),
        ),
        right=(shared_block_by_block,),
    ),
}
