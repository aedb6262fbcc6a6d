//! The rules of RawKV, each as a session. `Plain` is API v1, `Encoded` API v2 with keyspaces.

use flotilla_kv::KeyMode::{Encoded, Plain};

use crate::session::{Session, check};

#[test]
fn single_keys() {
    check(
        Plain,
        r"
        get a            -> none
        put a 1          -> ok
        get a            -> 1
        put a 2          -> ok
        get a            -> 2
        delete a         -> ok
        get a            -> none
        delete a         -> ok
        ",
    );
}

#[test]
fn empty_keys_and_empty_values_are_data() {
    check(
        Plain,
        r"
        get -            -> none
        put - 1          -> ok
        get -            -> 1
        put a -          -> ok
        get a            -> -
        gets a - b       -> a=- -=1
        scan - - 9       -> -=1 a=-
        swap - 1 -       -> done, was 1
        swap - none 2    -> not done, was - (nothing to propose)
        swap - - 3       -> done, was -
        delete -         -> ok
        get -            -> none
        ",
    );
    check(
        Encoded,
        r"
        put @ 1          -> ok
        put @a -         -> ok
        get @            -> 1
        get @a           -> -
        scan @ @@ 9      -> @=1 @a=-
        ",
    );
}

#[test]
fn batches() {
    check(
        Plain,
        r"
        gets             ->
        puts -           -> ok (nothing to propose)
        deletes          -> ok (nothing to propose)
        puts - c:3 a:1 c:4 b:2 -> ok
        gets c a x b a   -> c=4 a=1 b=2 a=1
        deletes a x c    -> ok
        scan - - 9       -> b=2
        ",
    );
}

#[test]
fn column_families_are_apart() {
    check(
        Plain,
        r"
        put a 1              -> ok
        put a 2 cf=lock      -> ok
        put a 3 cf=write     -> ok
        get a cf=default     -> 1
        get a cf=lock        -> 2
        delete a cf=default  -> ok
        gets a               ->
        scan - - 9 cf=write  -> a=3
        erase - - cf=lock    -> ok
        get a cf=lock        -> none
        get a cf=write       -> 3
        ",
    );
}

#[test]
fn an_unknown_column_family_is_refused() {
    check(
        Plain,
        r#"
        put a 1              -> ok
        get a cf=raft        -> error: invalid cf name: "raft"; there are default, lock and write
        put a 2 cf=Default   -> error: invalid cf name: "Default"; there are default, lock and write
        swap a 1 2 cf=x      -> error: invalid cf name: "x"; there are default, lock and write
        erase - - cf=meta    -> error: invalid cf name: "meta"; there are default, lock and write
        scan - - 9 cf=x      -> invalid argument: invalid cf name: "x"; there are default, lock and write
        gets a cf=x          -> invalid argument: invalid cf name: "x"; there are default, lock and write
        get a                -> 1
        "#,
    );
    check(
        Encoded,
        r#"
        put @a 1             -> ok
        get @a cf=default    -> 1
        get @a cf=write      -> error: invalid cf name: "write"; API v2 has only default
        put @a 2 cf=lock     -> error: invalid cf name: "lock"; API v2 has only default
        "#,
    );
}

#[test]
fn a_scan_has_its_start_and_not_its_end() {
    check(
        Plain,
        r"
        puts - a:1 b:2 c:3 d:4     -> ok
        scan a c 9                 -> a=1 b=2
        scan a\x00 c\x00 9         -> b=2 c=3
        scan - - 9                 -> a=1 b=2 c=3 d=4
        scan - - 2                 -> a=1 b=2
        scan b - 2                 -> b=2 c=3
        scan - - 0                 ->
        scan x - 9                 ->
        scan b b 9                 ->
        scan a c 4294967295 keys   -> a=- b=-
        ",
    );
}

#[test]
fn a_reverse_scan_goes_down_from_below_its_upper_bound_to_its_lower_one() {
    check(
        Plain,
        r"
        puts - a:1 b:2 c:3 d:4     -> ok
        scan d b 9 reverse         -> c=3 b=2
        scan d\x00 b\x00 9 reverse -> d=4 c=3
        scan - - 2 reverse         -> d=4 c=3
        scan - c 9 reverse keys    -> d=- c=-
        scan b - 9 reverse         -> a=1
        scan c c 9 reverse         ->
        ",
    );
}

#[test]
fn a_scan_is_clamped_to_the_region() {
    check(
        Plain,
        r"
        puts - a:1 b:2 c:3 d:4 e:5 -> ok
        region b d
        scan - - 9                 -> b=2 c=3
        scan a z 9                 -> b=2 c=3
        scan c z 9                 -> c=3
        scan a c 9                 -> b=2
        scan d z 9                 ->
        scan - b 9                 ->
        scan z a 9 reverse         -> c=3 b=2
        scan - - 1 reverse         -> c=3
        scans 9 -..c c..-          -> b=2 c=3
        ",
    );
    check(
        Encoded,
        r"
        puts - @a:1 @b:2 @@a:3     -> ok
        region @b @@
        scan @ @@ 9                -> @b=2
        scan @ s 9                 -> @b=2
        scan @@ @@z 9              ->
        region - @b
        scan @ @@ 9                -> @a=1
        ",
    );
}

#[test]
fn a_batch_scan_goes_through_its_ranges_in_order() {
    check(
        Plain,
        r"
        puts - a:1 b:2 c:3 d:4     -> ok
        scans 9 c..d a..b          -> c=3 a=1
        scans 1 a..d b..d          -> a=1 b=2
        scans 9 a..c a..b          -> a=1 b=2 a=1
        scans 9 b..b               ->
        scans 9 a..b b..b c..d     -> a=1 c=3
        scans 9 a..- c..-          -> a=1 b=2 c=3 d=4
        scans 9 d..c b..a reverse  -> c=3 a=1
        scans 1 d..- b..- reverse  -> c=3 a=1
        scans 0 a..-               ->
        scans 9                    ->
        scans 9 a..- keys          -> a=- b=- c=- d=-
        ",
    );
}

#[test]
fn a_reversed_range_is_refused() {
    check(
        Plain,
        r"
        put b 1                    -> ok
        scan c a 9                 -> invalid argument: Invalid KeyRanges: range 0 starts behind its end
        scan a c 9 reverse         -> invalid argument: Invalid KeyRanges: range 0 starts behind its end
        scans 9 a..b d..c          -> invalid argument: Invalid KeyRanges: range 1 starts behind its end
        scans 9 c..- b..-          -> invalid argument: Invalid KeyRanges: range 0 starts behind its end
        scans 9 a..b reverse       -> invalid argument: Invalid KeyRanges: range 0 starts behind its end
        checksum 0 a..b c..b       -> error: Invalid KeyRanges: range 1 starts behind its end
        erase c a                  -> error: Invalid KeyRanges: range 0 starts behind its end
        get b                      -> 1
        ",
    );
}

#[test]
fn a_range_delete_stays_in_its_range_and_region() {
    check(
        Plain,
        r"
        puts - a:1 b:2 c:3 d:4 e:5 -> ok
        erase b c                  -> ok
        erase d d                  -> ok (nothing to propose)
        scan - - 9                 -> a=1 c=3 d=4 e=5
        region c e
        erase - b                  -> ok (nothing to propose)
        erase e -                  -> ok (nothing to propose)
        erase a d                  -> ok
        erase - -                  -> ok
        region - -
        scan - - 9                 -> a=1 e=5
        erase - -                  -> ok
        scan - - 9                 ->
        ",
    );
    check(
        Encoded,
        r"
        puts - @a:1 @b:2 @@a:3     -> ok
        erase @b @@                -> ok
        scan @ s 9                 -> @a=1 @@a=3
        ",
    );
}

#[test]
fn a_key_outside_the_region_is_a_region_error() {
    check(
        Plain,
        r"
        region b d
        get a                      -> region error: region 3: the key is outside its range
        get d                      -> region error: region 3: the key is outside its range
        get b                      -> none
        ttl a                      -> region error: region 3: the key is outside its range
        gets b a                   -> region error: region 3: the key is outside its range
        put d 1                    -> region error: region 3: the key is outside its range
        puts - b:1 d:1             -> region error: region 3: the key is outside its range
        delete a                   -> region error: region 3: the key is outside its range
        deletes b a                -> region error: region 3: the key is outside its range
        swap d none 1              -> region error: region 3: the key is outside its range
        get b                      -> none
        ",
    );
}

#[test]
fn rows_with_time_to_live_end_in_their_second() {
    check(
        Plain,
        r"
        at 1000
        put a 1 ttl=10             -> ok
        put b 2                    -> ok
        ttl a                      -> 10
        ttl b                      -> 0
        ttl c                      -> none
        at 1009
        ttl a                      -> 1
        get a                      -> 1
        at 1010
        ttl a                      -> none
        get a                      -> none
        gets a b                   -> b=2
        scan - - 9                 -> b=2
        scan - - 1                 -> b=2
        scan - - 9 reverse         -> b=2
        swap a none 3 ttl=5        -> done, was none
        ttl a                      -> 5
        put a 4                    -> ok
        ttl a                      -> 0
        put a 5 ttl=18446744073709551615 -> ok
        ttl a                      -> 18446744073709550605
        ",
    );
}

#[test]
fn the_times_to_live_of_a_batch_are_none_one_or_one_each() {
    check(
        Plain,
        r"
        puts - a:1 b:2 ttl=7       -> ok
        ttl a                      -> 0
        puts 9 a:1 b:2 ttl=7       -> ok
        ttl a                      -> 9
        ttl b                      -> 9
        puts 5,0 a:1 b:2           -> ok
        ttl a                      -> 5
        ttl b                      -> 0
        puts 0,0 a:1 b:2           -> ok
        ttl a                      -> 0
        puts 1,2 a:3               -> error: The length of ttls does not equal to the length of pairs (2 and 1)
        puts 1,2 a:3 b:3 c:3       -> error: The length of ttls does not equal to the length of pairs (2 and 3)
        scan - - 9                 -> a=1 b=2
        ",
    );
}

#[test]
fn compare_and_swap_tells_the_state_before() {
    check(
        Plain,
        r"
        swap k x 1                 -> not done, was none (nothing to propose)
        swap k none 1              -> done, was none
        swap k none 2              -> not done, was 1 (nothing to propose)
        swap k 1 -                 -> done, was 1
        swap k none 2              -> not done, was - (nothing to propose)
        swap k - 2                 -> done, was -
        swap k 2 2                 -> done, was 2
        swap k x delete            -> not done, was 2 (nothing to propose)
        swap k 2 delete            -> done, was 2
        get k                      -> none
        swap k none delete         -> done, was none (nothing to propose)
        swap k - delete            -> not done, was none (nothing to propose)
        ",
    );
}

#[test]
fn checksums_are_over_user_keys_and_values() {
    check(
        Plain,
        r"
        checksum 0 a..z            -> 0000000000000000, 0 rows, 0 bytes
        put 1234 56789             -> ok
        checksum 0 -..z            -> 995dc9bbdf1939fa, 1 rows, 9 bytes
        checksum 0 1..2 1..2       -> 0000000000000000, 2 rows, 18 bytes
        checksum 0 5..5            -> 0000000000000000, 0 rows, 0 bytes
        put 12345 678 ttl=1        -> ok
        checksum 0 0..5 8..9       -> c5d649f3f4b541f3, 2 rows, 17 bytes
        at 1001
        checksum 0 0..5            -> 995dc9bbdf1939fa, 1 rows, 9 bytes
        checksum 0 1..-            -> 995dc9bbdf1939fa, 1 rows, 9 bytes
        checksum 0                 -> 0000000000000000, 0 rows, 0 bytes
        checksum 1 1..2            -> error: unknown checksum algorithm 1; only Crc64_Xor is served
        ",
    );
    check(
        Encoded,
        r"
        put @4 5                   -> ok
        checksum 0 @..@@           -> 69c2faf41fa3f1d4, 1 rows, 6 bytes
        ",
    );
}

#[test]
fn the_key_mode_of_the_cluster_is_kept() {
    check(
        Plain,
        r"
        put a 1 api=1              -> ok
        get a api=0                -> 1
        get @a api=2               -> error: ApiVersionNotMatched: the request needs encoded keys, and this cluster has plain ones: use raw calls of API v1
        put @a 1 api=2             -> error: ApiVersionNotMatched: the request needs encoded keys, and this cluster has plain ones: use raw calls of API v1
        scan @ @@ 9 api=2          -> invalid argument: ApiVersionNotMatched: the request needs encoded keys, and this cluster has plain ones: use raw calls of API v1
        get a api=3                -> error: ApiVersionNotMatched: API version 3 is not served; use V1 or V2
        get a api=-1               -> error: ApiVersionNotMatched: API version -1 is not served; use V1 or V2
        scan - - 9                 -> a=1
        ",
    );
    check(
        Encoded,
        r"
        put @a 1                   -> ok
        get a api=0                -> error: ApiVersionNotMatched: the request needs plain keys, and this cluster has encoded ones: use API v2 with a keyspace, or transactions
        erase - - api=1            -> error: ApiVersionNotMatched: the request needs plain keys, and this cluster has encoded ones: use API v2 with a keyspace, or transactions
        get @a                     -> 1
        ",
    );
}

#[test]
fn keyspaces_are_apart_and_their_keys_have_their_prefix() {
    check(
        Encoded,
        r"
        puts - @a:1 @@a:2 @b:3     -> ok
        gets @a @@a @@b            -> @a=1 @@a=2
        scan @ @@ 9                -> @a=1 @b=3
        scan @ s 9                 -> @a=1 @b=3 @@a=2
        scan @a s\x00\x00\x00 1    -> @a=1
        scan @@ @ 9 reverse        -> @b=3 @a=1
        get a                      -> error: ApiVersionNotMatched: a raw key under API v2 starts with `r` and its keyspace
        put x\x00\x00\x01a 1       -> error: ApiVersionNotMatched: a raw key under API v2 starts with `r` and its keyspace
        get -                      -> error: ApiVersionNotMatched: a raw key under API v2 starts with `r` and its keyspace
        scan - @ 9                 -> invalid argument: ApiVersionNotMatched: both ends of a raw range under API v2 start with `r` and a keyspace (the end may be the prefix after it)
        scan @ - 9                 -> invalid argument: ApiVersionNotMatched: both ends of a raw range under API v2 start with `r` and a keyspace (the end may be the prefix after it)
        scan @ sa 9                -> invalid argument: ApiVersionNotMatched: both ends of a raw range under API v2 start with `r` and a keyspace (the end may be the prefix after it)
        erase @ t                  -> error: ApiVersionNotMatched: both ends of a raw range under API v2 start with `r` and a keyspace (the end may be the prefix after it)
        scans 9 @..- @@..s         -> @a=1 @b=3 @@a=2
        ",
    );
}

#[test]
fn sizes_at_their_limits_and_above() {
    check(
        Plain,
        r"
        put k*8192 v               -> ok
        get k*8192                 -> v
        put k*8193 v               -> error: key too large: 8193 bytes in physical form, at most 8192
        swap k*8193 none v         -> error: key too large: 8193 bytes in physical form, at most 8192
        delete k*8193              -> error: key too large: 8193 bytes in physical form, at most 8192
        get k*8193                 -> none
        ttl k*8193                 -> none
        scan k k*8193 9 keys       -> <8192 bytes>=-
        put a v*6291456            -> ok
        get a                      -> <6291456 bytes>
        put a v*6291457            -> error: value too large: 6291457 bytes, at most 6291456
        puts - a:1 b:v*6291457     -> error: value too large: 6291457 bytes, at most 6291456
        swap a x v*6291457         -> error: value too large: 6291457 bytes, at most 6291456
        puts - a:v*4194304 b:v*4000000 -> ok
        puts - a:v*4194304 b:v*4194304 -> region error: region 3: the write makes an entry of 8388700 bytes, at most 8388608 are taken
        get a                      -> <4194304 bytes>
        ",
    );
    // Nine bytes of encoding for every eight of the key, and nine more.
    check(
        Encoded,
        r"
        put @k*7275 v              -> ok
        put @k*7276 v              -> error: key too large: 8199 bytes in physical form, at most 8192
        get @k*7276                -> none
        ",
    );
}

#[test]
fn an_answer_beyond_its_bound_is_an_error_and_never_cut_short() {
    let mut session = Session::new(Plain);
    for row in 0..11 {
        assert_eq!(session.step(&format!("put {row:02} v*6291456")), "ok");
    }
    let table = [
        (
            "scan - - 10 keys",
            "00=- 01=- 02=- 03=- 04=- 05=- 06=- 07=- 08=- 09=-",
        ),
        ("scan 00 01 10", "00=<6291456 bytes>"),
        ("scan - - 11", TOO_LARGE),
        ("scan - - 4294967295 reverse", TOO_LARGE),
        ("scans 6 00..1 00..1", TOO_LARGE),
        ("gets 00 00 00 00 00 00 00 00 00 00 00", TOO_LARGE),
    ];
    for (line, told) in table {
        assert_eq!(session.step(line), told, "{line}");
    }
    assert_eq!(
        session.step("scan - - 10").matches("bytes>").count(),
        10,
        "63 MiB are answered"
    );
}

const TOO_LARGE: &str = "out of range: the answer would exceed 67108864 bytes; ask for fewer rows or \
                         keys, or for keys only";

#[test]
fn a_passed_deadline_ends_a_scan_as_busy() {
    check(
        Plain,
        r"
        put a 1                    -> ok
        deadline passed
        get a                      -> 1
        scan - - 9                 -> region error: the store is busy: deadline is exceeded
        scans 9 a..b               -> region error: the store is busy: deadline is exceeded
        checksum 0 a..b            -> region error: the store is busy: deadline is exceeded
        scan - - 0                 ->
        ",
    );
}

#[test]
fn damaged_rows_are_named_and_never_served() {
    check(
        Plain,
        r"
        put a 1                    -> ok
        damage b v\x07
        get a                      -> 1
        get b                      -> the store stops: corrupt data in region 3, column family CF_DEFAULT, the key of 1 bytes with CRC64 0x74a8fe9e8582d431: no raw row: a row with unknown flags 0x07, written by a newer version or damaged; restore this store from its replicas or a backup
        ",
    );
}
