#!/usr/bin/env python3
"""Recomputes a draw from what the server publishes, without any of the server's code.

    python3 verify_draw.py --commitment HEX --seed HEX --concert ID --size L --arrival N

The commitment is the one you noted before the draw; seed and size were published with it. Without
--arrival the first ranks are listed. Ends with 1 where the seed is not the one committed to. Needs
Python 3.8 and nothing else. DRAW.md, beside this file, says what all this means.
"""

import argparse
import hashlib
import hmac
import math
import sys
import uuid


class Draw:
    """The ranks of one lobby."""

    ROUNDS = 10
    SIDE_MIN = 32

    def __init__(self, seed, concert, size):
        self.size = size
        self.key = hashlib.sha256(seed + concert + size.to_bytes(8, "big")).digest()
        # Numbers below a·b are written as left·b + right. a·b is at least the size, and barely
        # above it unless the lobby is small.
        root = math.isqrt(size)
        self.a = max(root if root * root == size else root + 1, self.SIDE_MIN)
        self.b = max(-(-size // self.a), self.SIDE_MIN)

    def f(self, number, value, modulus):
        """The function of one round: eight bytes of an HMAC, reduced."""
        message = bytes([number]) + value.to_bytes(8, "big")
        digest = hmac.new(self.key, message, hashlib.sha256).digest()
        return int.from_bytes(digest[:8], "big") % modulus

    def mix(self, x):
        """Ten rounds: left and right are changed in turn, each by a function of the other."""
        left, right = divmod(x, self.b)
        for i in range(1, self.ROUNDS, 2):
            left = (left + self.f(i, right, self.a)) % self.a
            right = (right + self.f(i + 1, left, self.b)) % self.b
        return left * self.b + right

    def unmix(self, x):
        """The same backwards."""
        left, right = divmod(x, self.b)
        for i in range(self.ROUNDS - 1, 0, -2):
            right = (right - self.f(i + 1, left, self.b)) % self.b
            left = (left - self.f(i, right, self.a)) % self.a
        return left * self.b + right

    def rank_of(self, arrival):
        """Mixes until the result is a rank: at least once, and again while it is not below the size."""
        x = self.mix(arrival)
        while x >= self.size:
            x = self.mix(x)
        return x

    def arrival_at(self, rank):
        """Who has this rank."""
        x = self.unmix(rank)
        while x >= self.size:
            x = self.unmix(x)
        return x


def hexadecimal(text):
    value = bytes.fromhex(text)
    if len(value) != 32:
        raise ValueError
    return value


def whole(text):
    value = int(text)
    if not 0 <= value < 2**64:
        raise ValueError
    return value


def main():
    parser = argparse.ArgumentParser(description="Recomputes a draw.")
    parser.add_argument("--commitment", type=hexadecimal, metavar="HEX", help="noted before the draw")
    parser.add_argument("--seed", type=hexadecimal, metavar="HEX", required=True)
    parser.add_argument("--concert", type=uuid.UUID, metavar="ID", required=True)
    parser.add_argument("--size", type=whole, metavar="L", required=True)
    parser.add_argument("--arrival", type=whole, metavar="N", action="append", default=[])
    given = parser.parse_args()

    commitment = hashlib.sha256(given.seed).digest()
    if given.commitment not in (None, commitment):
        sys.exit(f"the seed does not fit the commitment: its SHA-256 is {commitment.hex()}")
    draw = Draw(given.seed, given.concert.bytes, given.size)
    print("commitment", commitment.hex())
    print("seed", given.seed.hex())
    print("concert", given.concert)
    print("size", given.size)
    if given.commitment:
        print("The seed fits the commitment.")
    for arrival in given.arrival:
        if arrival < given.size:
            print(f"arrival {arrival}: rank {draw.rank_of(arrival)}")
        else:
            print(f"arrival {arrival}: not in the draw, behind everybody who was")
    if not given.arrival:
        for rank in range(min(given.size, 10)):
            print(f"rank {rank}: arrival {draw.arrival_at(rank)}")


if __name__ == "__main__":
    main()
