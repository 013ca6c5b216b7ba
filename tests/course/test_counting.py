"""What the lessons' counter of operations and bytes counts, and what it leaves out."""

import torch

from litellama.course.counting import CountBytes


def counted(function, *args) -> tuple[int, float]:
    """Operations, and bytes in multiples of the first argument's."""
    with CountBytes() as count:
        function(*args)
    return count.operations, count.moved / args[0].nbytes


def test_an_operation_reads_its_tensors_and_writes_its_result():
    x, y = torch.ones(8, 64), torch.ones(8, 64)
    assert counted(torch.exp, x) == (1, 2.0)
    assert counted(torch.mul, x, y) == (1, 3.0)
    assert counted(lambda x: x.sum(-1), x) == (1, 1 + 1 / 64)


def test_views_move_nothing():
    x = torch.ones(8, 64)
    assert counted(lambda x: x[:, 3:9].reshape(8, 2, 3).mT, x) == (0, 0.0)
    assert counted(lambda x: [half.exp() for half in x.chunk(2, -1)], x) == (2, 2.0)


def test_setting_memory_aside_moves_nothing():
    x = torch.ones(8, 64)
    assert counted(lambda x: torch.exp(x, out=torch.empty_like(x)), x) == (1, 2.0)


def test_a_batch_of_products_reads_two_matrices_and_writes_one():
    assert counted(torch.matmul, torch.ones(2, 3, 8, 8), torch.ones(2, 3, 8, 8)) == (1, 3.0)


def test_counting_starts_anew_in_each_block():
    x = torch.ones(8, 64)
    assert counted(torch.exp, x) == counted(torch.exp, x)
