#!/usr/bin/env python3
"""Makes placement.tsv, by the rule in tuning.md ("Which partition a key goes to") and with nothing of forebay: needs the package xxhash.

    pip install xxhash && python3 tests/vectors/placement.py > tests/vectors/placement.tsv
"""

import xxhash

HEAD = """\
# Which shard, partition and lane keys go to; the rule is in tuning.md, "Which partition a key goes to". Made by another program in another
# language (placement.py beside it, with the package xxhash), checked by the unit tests of state::placement. Columns, separated by tabs:
# layout, key (UTF-8), murmur2 of the key as Java's signed int, shard, partition, lane of 16, and the tenant where it is not in the key ("-").
# Layouts: one: a single shard, 12 partitions. modulo: by = "modulo", tenant = "key:0", shards s0 and s1 with partitions "0-3" and
# "4,6-7", 8 partitions. hash: by = "hash", tenant = "key:0", shards s0, s1 and s2 with "0-4", "5-9" and "10-15", 16 partitions.
# free: the same shards without partitions. rest: by = "hash", tenant = "key:0", s0 with "1-2" and s1 without any, 8 partitions.
# partition: by = "partition", s0 and s1 with "0-4" and "5-11", 12 partitions. map: by = "map" with tenants.toml, default = "s1",
# tenant = "key:0", s0, s1 and s2 with "0-1", "2" and "3-6", 7 partitions. header: by = "hash", tenant = "header:Tenant", s0 and s1 with "0-3" and
# "4-7", 8 partitions. field: the same with by = "modulo", tenant = "field:app_id".
"""


def murmur2(data):
    """`org.apache.kafka.common.utils.Utils.murmur2`."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k ^= k >> 24
        h = (h * m & mask) ^ (k * m & mask)
    if data[whole:]:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h ^= h >> 13
    h = h * m & mask
    return h ^ h >> 15


def hashed(tenant, shards):
    return xxhash.xxh3_64_intdigest(tenant.encode()) % shards


def modulo(tenant, shards):
    return int(tenant) % shards


def mapped(tenant, _):
    return {"a": 0, "blog": 2, "größe": 0}.get(tenant, 1)


def nobody(tenant, shards):
    return None


A, B, C = [0, 1, 2, 3], [4, 6, 7], list(range(4, 8))
THREE = [list(range(0, 5)), list(range(5, 10)), list(range(10, 16))]
OF_KEY = ["blog:1", "blog:2", "blog:3", "shop:1", "shop:2", "größe:1", "a:b:c", "acme:4711", "0:0", "tenant-without-a-part"]
PLAIN = [
    "21", "foobar", "a-little-bit-long-string", "a-little-bit-longer-string", "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", "abc", "a",
    "blog:17", "größe", '{"app_id":"a1","subscription_id":"s1"}',
]
# Layout: how shards are chosen, what each declares (none: nothing), partitions, keys or (key, tenant).
LAYOUTS = {
    "one": (nobody, [None], 12, PLAIN),
    "modulo": (modulo, [A, B], 8, ["1:a", "2:a", "17:4711", "18:4711", "-1:x", "1000000000000:long", "3:", "4"]),
    "hash": (hashed, THREE, 16, OF_KEY),
    "free": (hashed, [None, None, None], 16, OF_KEY),
    "rest": (hashed, [[1, 2], None], 8, OF_KEY),
    "partition": (nobody, [list(range(0, 5)), list(range(5, 12))], 12, PLAIN),
    "map": (mapped, [[0, 1], [2], [3, 4, 5, 6]], 7, OF_KEY),
    "header": (hashed, [A, C], 8, [("k1", "blog"), ("k1", "shop"), ("k2", "blog"), ("", "größe"), ("k4", "a:b")]),
    "field": (modulo, [A, C], 8, [("k1", "1"), ("k1", "2"), ("k2", "-1"), ("k3", "9007199254740993"), ("größe", "4711")]),
}


def place(layout, key, tenant):
    choose, declared, partitions, _ = LAYOUTS[layout]
    number = murmur2(key.encode()) & 0x7FFFFFFF
    if layout == "one":
        return 0, number % partitions
    if layout == "partition":
        partition = number % partitions
        return next(shard for shard, own in enumerate(declared) if partition in own), partition
    shard = choose(tenant, len(declared))
    nobody_s = [p for p in range(partitions) if not any(p in (own or []) for own in declared)]
    candidates = declared[shard] or nobody_s
    return shard, candidates[number % len(candidates)]


print(HEAD, end="")
for layout, (_, _, _, keys) in LAYOUTS.items():
    for entry in keys:
        key, tenant = entry if isinstance(entry, tuple) else (entry, entry.split(":")[0])
        signed = murmur2(key.encode())
        signed -= (signed >> 31) << 32
        shard, partition = place(layout, key, tenant)
        lane = xxhash.xxh3_64_intdigest(key.encode()) % 16
        shown = tenant if isinstance(entry, tuple) else "-"
        print(layout, key, signed, f"s{shard}", partition, lane, shown, sep="\t")
