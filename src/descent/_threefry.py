"""Threefry-4x32 with 20 rounds: random words as a function of a key and a counter.

It is the generator of Salmon, Moraes, Dror and Shaw (2011), *Parallel random numbers: as easy as
1, 2, 3*. Its operations are addition, rotation and exclusive or of 32-bit words, so that every
machine and every language gets the same words; and a word needs none of those before it.
"""

import numpy as np

WORD = np.uint32
#: By how much the second and the fourth word are rotated, in eight rounds that repeat.
ROTATIONS = ((10, 26), (11, 21), (13, 27), (23, 5), (6, 20), (17, 11), (25, 10), (18, 20))
ROUNDS = 20
#: Exclusive or of all words of the key and this number: a fifth word of the key.
PARITY = 0x1BD11BDA


def threefry(key: np.ndarray, counter: np.ndarray) -> np.ndarray:
    """Encrypt counters (4, m) under a key (4,), words of 32 bits; returns (4, m) words.

    The four words of a block are two pairs, and a round treats both alike: even words add the odd
    ones, which are then rotated and mixed with the sums; after it the odd ones change places.
    """
    keys = np.array([*key, np.bitwise_xor.reduce(key) ^ WORD(PARITY)], WORD)
    even, odd = counter[::2] + keys[[0, 2], None], counter[1::2] + keys[[1, 3], None]
    high = np.empty_like(odd)
    for number in range(ROUNDS):
        left = np.array(ROTATIONS[number % 8], WORD)[:, None]
        even += odd
        np.left_shift(odd, left, out=high)
        odd >>= WORD(32) - left
        odd |= high
        odd ^= even
        odd = odd[::-1]
        if number % 4 == 3:
            turn = number // 4 + 1
            even += keys[[turn % 5, (turn + 2) % 5], None]
            odd += keys[[(turn + 1) % 5, (turn + 3) % 5], None] + np.array([[0], [turn]], WORD)
    return np.stack([even[0], odd[0], even[1], odd[1]])
