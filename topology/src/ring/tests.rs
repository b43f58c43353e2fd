use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::token::{token_of_int, token_of_text};

fn shards(count: u16) -> Vec<ShardId> {
    (1..=count).map(ShardId).collect()
}

fn arc(text: &str) -> TokenArc {
    text.parse().unwrap()
}

fn point(token: i64, shard: u16) -> RingPoint {
    RingPoint { token: Token(token), shard: ShardId(shard) }
}

/// Tokens where something could be off by one, among any others.
fn interesting_tokens(ring: &Ring, rng: &mut StdRng) -> Vec<Token> {
    let near = |token: i64| [token.saturating_sub(1), token, token.saturating_add(1)];
    let mut tokens: Vec<i64> = ring.points().iter().flat_map(|point| near(point.token.0)).collect();
    tokens.extend([i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX]);
    tokens.extend((0..50).map(|_| rng.random::<i64>()));
    tokens.into_iter().map(Token).collect()
}

fn random_arc(rng: &mut StdRng) -> TokenArc {
    let bound = |rng: &mut StdRng| match rng.random_range(0..6) {
        0 => i64::MIN,
        1 => i64::MAX,
        2 => rng.random_range(-3..3),
        _ => rng.random(),
    };
    let (one, other) = (bound(rng), bound(rng));
    match rng.random_range(0..4) {
        0 => TokenArc::single(Token(one)),
        1 => TokenArc::new(None, one).unwrap(),
        _ => TokenArc::new(Some(one.min(other)), one.max(other)).unwrap_or(TokenArc::single(Token(one))),
    }
}

/// The share of the token space that a shard owns.
fn share(ring: &Ring, shard: ShardId) -> f64 {
    ring.arcs_of(shard).iter().map(|arc| arc.width() as f64).sum::<f64>() / TokenArc::ALL.width() as f64
}

#[test]
fn equal_arcs_cover_everything() {
    for count in [1, 2, 3, 4, 7, 64, 1000] {
        let ring = Ring::equal(&shards(count)).unwrap();
        assert!(every_token_has_one_owner(&ring));
        assert_eq!(ring.owners(), shards(count));
        let widths: Vec<u128> = ring.arcs().map(|(arc, _)| arc.width()).collect();
        assert_eq!(widths.iter().sum::<u128>(), 1 << 64);
        assert!(widths.iter().max().unwrap() - widths.iter().min().unwrap() <= 1);
    }
    let ring = Ring::equal(&shards(2)).unwrap();
    assert_eq!(ring.points(), [point(-1, 1), point(i64::MAX, 2)]);
    assert_eq!(Ring::equal(&[]), Err(RingError::Empty));
    assert_eq!(Ring::equal(&[ShardId(3), ShardId(3)]), Err(RingError::RepeatedShard(ShardId(3))));
}

#[test]
fn a_point_owns_its_own_token_and_not_the_next() {
    let ring = Ring::new(vec![point(i64::MIN, 1), point(10, 2), point(11, 3), point(i64::MAX, 1)]).unwrap();
    let owned = [(i64::MIN, 1), (i64::MIN + 1, 2), (10, 2), (11, 3), (12, 1), (i64::MAX, 1)];
    for (token, shard) in owned {
        assert_eq!(ring.owner(Token(token)), ShardId(shard), "{token}");
    }
    assert_eq!(ring.arcs_of(ShardId(1)), [TokenArc::single(Token::MIN), arc("11..")]);
    assert_eq!(ring.arcs_of(ShardId(9)), []);
    assert!(every_token_has_one_owner(&ring));
}

#[test]
fn stored_points_are_checked() {
    let ring = Ring::equal(&shards(3)).unwrap();
    let stored = serde_json::to_string(&ring).unwrap();
    assert_eq!(serde_json::from_str::<Ring>(&stored).unwrap(), ring);
    assert!(stored.starts_with(r#"[{"token":-3074457345618258604,"shard":1},"#), "{stored}");

    assert_eq!(Ring::new(vec![]), Err(RingError::Empty));
    assert_eq!(Ring::new(vec![point(5, 1)]), Err(RingError::TopNotOwned(Token(5))));
    for points in [[point(5, 1), point(5, 2)], [point(6, 1), point(5, 2)]] {
        let points = [&points[..], &[point(i64::MAX, 1)]].concat();
        assert_eq!(Ring::new(points), Err(RingError::NotAscending(Token(5))));
    }
    assert!(serde_json::from_str::<Ring>(r#"[{"token":1,"shard":1}]"#).is_err());
    let merged = Ring::new(vec![point(5, 1), point(7, 1), point(i64::MAX, 2)]).unwrap();
    assert_eq!(merged.points(), [point(7, 1), point(i64::MAX, 2)]);
}

#[test]
fn reassigning_cuts_at_the_ends_and_around_one_token() {
    let ring = Ring::equal(&shards(2)).unwrap();
    let to = ShardId(9);
    for token in [i64::MIN, i64::MIN + 1, -1, 0, 42, i64::MAX - 1, i64::MAX].map(Token) {
        let cut = ring.reassign(&[TokenArc::single(token)], to).unwrap();
        assert!(every_token_has_one_owner(&cut));
        assert_eq!(cut.arcs_of(to), [TokenArc::single(token)]);
        let back = cut.reassign(&[TokenArc::single(token)], ring.owner(token)).unwrap();
        assert_eq!(back, ring, "{token}: neighbours merge again");
    }
    assert_eq!(ring.reassign(&[TokenArc::ALL], to).unwrap().points(), [point(i64::MAX, 9)]);
    assert_eq!(ring.reassign(&[], to).unwrap(), ring);
    assert_eq!(ring.reassign(&[arc("1..5"), arc("4..6")], to), Err(RingError::OverlappingArcs));
    let touching = ring.reassign(&[arc("5..6"), arc("1..5")], to).unwrap();
    assert_eq!(touching.arcs_of(to), [arc("1..6")]);
}

#[test]
fn reassigning_changes_the_owner_of_those_tokens_only() {
    let mut rng = StdRng::seed_from_u64(7);
    let mut ring = Ring::equal(&shards(5)).unwrap();
    for _ in 0..2000 {
        let mut arcs: Vec<TokenArc> = Vec::new();
        for _ in 0..rng.random_range(1..5) {
            let candidate = random_arc(&mut rng);
            if arcs.iter().all(|arc| !arc.intersects(&candidate)) {
                arcs.push(candidate);
            }
        }
        let to = ShardId(rng.random_range(1..8));
        let changed = ring.reassign(&arcs, to).unwrap();
        assert!(every_token_has_one_owner(&changed));
        assert!(changed.points().windows(2).all(|pair| pair[0].shard != pair[1].shard), "canonical");
        for token in interesting_tokens(&changed, &mut rng) {
            let moved = arcs.iter().any(|arc| arc.contains(token));
            assert_eq!(changed.owner(token), if moved { to } else { ring.owner(token) }, "{token}");
        }
        ring = if changed.points().len() > 40 { Ring::equal(&shards(5)).unwrap() } else { changed };
    }
}

#[test]
fn lookups_agree_with_a_scan_of_the_arcs() {
    let mut rng = StdRng::seed_from_u64(8);
    for _ in 0..200 {
        let mut cuts: BTreeSet<i64> = (0..rng.random_range(0..30)).map(|_| rng.random()).collect();
        cuts.insert(i64::MAX);
        let points = cuts.into_iter().map(|cut| point(cut, rng.random_range(1..5))).collect();
        let ring = Ring::new(points).unwrap();
        assert!(every_token_has_one_owner(&ring));
        for token in interesting_tokens(&ring, &mut rng) {
            let found: Vec<ShardId> =
                ring.arcs().filter(|(arc, _)| arc.contains(token)).map(|(_, shard)| shard).collect();
            assert_eq!(found, [ring.owner(token)], "{token}");
        }
    }
}

#[test]
fn a_fraction_is_that_share_of_the_shard() {
    let ring = Ring::equal(&shards(3)).unwrap().reassign(&[arc("-5..5"), arc("100..200")], ShardId(1)).unwrap();
    let to = ShardId(9);
    for shard in shards(3) {
        let before = share(&ring, shard);
        for fraction in [0.0, 0.1, 1.0 / 3.0, 0.5, 0.999, 1.0] {
            let taken = ring.take_fraction(shard, fraction).unwrap();
            assert!(arcs_are_disjoint(&taken) && taken.is_sorted());
            let after = ring.reassign(&taken, to).unwrap();
            assert!((share(&after, to) - before * fraction).abs() < 1e-12);
            assert!((share(&after, shard) - before * (1.0 - fraction)).abs() < 1e-12);
        }
        assert_eq!(ring.take_fraction(shard, 1.0).unwrap(), ring.arcs_of(shard));
        assert_eq!(ring.take_fraction(shard, 0.0).unwrap(), []);
    }
    assert_eq!(ring.take_fraction(to, 0.5).unwrap(), [], "a shard without arcs gives none");
    let one = ring.reassign(&[TokenArc::single(Token::MIN)], to).unwrap();
    assert_eq!(one.take_fraction(to, 0.2).unwrap(), []);
    assert_eq!(one.take_fraction(to, 0.8).unwrap(), [TokenArc::single(Token::MIN)]);
    for fraction in [-0.1, 1.1, f64::INFINITY] {
        assert_eq!(ring.take_fraction(to, fraction), Err(RingError::NotAFraction(fraction)));
    }
    assert!(ring.take_fraction(to, f64::NAN).is_err());
}

#[test]
fn joining_moves_an_even_share_and_only_to_the_newcomer() {
    let mut keys: Vec<Token> = (-20_000..20_000).map(token_of_int).collect();
    keys.extend((0..40_000).map(|n| token_of_text(format!("customer-{n}@example.org").as_bytes())));

    let mut ring = Ring::equal(&shards(1)).unwrap();
    for count in 1..12u16 {
        let newcomer = ShardId(count + 1);
        let plan = ring.join_plan(newcomer);
        assert_eq!(plan.iter().map(|(from, _)| *from).collect::<Vec<_>>(), shards(count), "everyone gives");
        let mut joined = ring.clone();
        for (from, arcs) in &plan {
            assert!(arcs.iter().all(|arc| ring.owner(arc.first()) == *from));
            joined = joined.reassign(arcs, newcomer).unwrap();
        }
        assert!(every_token_has_one_owner(&joined));

        let fair = 1.0 / f64::from(count + 1);
        for shard in joined.owners() {
            assert!((share(&joined, shard) - fair).abs() < 1e-12, "{shard} of {}", count + 1);
        }
        let mut moved = 0;
        for key in &keys {
            if ring.owner(*key) != joined.owner(*key) {
                assert_eq!(joined.owner(*key), newcomer);
                moved += 1;
            }
        }
        let moved_share = f64::from(moved) / keys.len() as f64;
        assert!((moved_share - fair).abs() < 0.1 * fair, "{moved_share} moved to shard {newcomer}");
        assert_eq!(joined.join_plan(newcomer), [], "it is a member now");
        ring = joined;
    }
}

#[test]
fn arcs_contain_and_intersect() {
    assert!(TokenArc::ALL.contains(Token::MIN) && TokenArc::ALL.contains(Token::MAX));
    let a = arc("5..9");
    assert!(!a.contains(Token(5)) && a.contains(Token(6)) && a.contains(Token(9)) && !a.contains(Token(10)));
    assert!(!a.intersects(&arc("9..12")) && a.intersects(&arc("8..12")) && a.intersects(&TokenArc::ALL));
    let bottom = TokenArc::single(Token::MIN);
    assert!(bottom.contains(Token::MIN) && !bottom.contains(Token(i64::MIN + 1)));
    assert!(!bottom.intersects(&TokenArc::new(Some(i64::MIN), 0).unwrap()) && bottom.intersects(&arc("..0")));
    assert_eq!((bottom.width(), a.width(), TokenArc::ALL.width()), (1, 4, 1 << 64));

    let mut rng = StdRng::seed_from_u64(9);
    for _ in 0..10_000 {
        let (one, other) = (random_arc(&mut rng), random_arc(&mut rng));
        let overlap = one.contains(other.first()) || other.contains(one.first());
        assert_eq!(one.intersects(&other), overlap, "{one} {other}");
        assert_eq!(arcs_are_disjoint(&[one, other]), !overlap);
        assert_eq!(arc(&one.to_string()), one);
    }
    assert!(!arcs_are_disjoint(&[TokenArc::ALL, arc("1..2"), arc("3..4")]));
}

#[test]
fn arcs_are_written_and_read() {
    let written = ["..", "..-5", "-5..", "-5..7", "..-9223372036854775808"];
    for text in written {
        assert_eq!(arc(text).to_string(), text);
    }
    assert_eq!(arc("5..9223372036854775807").to_string(), "5..");
    for text in ["", "5", "5..5", "6..5", "a..b", "1...2", "1..9223372036854775808", "9223372036854775807.."] {
        assert!(text.parse::<TokenArc>().is_err(), "{text}");
    }
    assert_eq!(serde_json::to_string(&arc("..7")).unwrap(), r#"{"after":null,"through":7}"#);
    assert!(serde_json::from_str::<TokenArc>(r#"{"after":7,"through":7}"#).is_err());
}

#[test]
fn conditions_name_only_the_bounds_that_exclude() {
    let conditions = [
        (arc("5..9"), "(x > 5 AND x <= 9)"),
        (arc("-5.."), "(x > -5)"),
        (arc("..-5"), "(x <= -5)"),
        (TokenArc::ALL, "(TRUE)"),
        (TokenArc::single(Token::MIN), "(x <= '-9223372036854775808'::bigint)"),
        (TokenArc::single(Token::MAX), "(x > 9223372036854775806)"),
        (TokenArc::new(Some(i64::MIN), 0).unwrap(), "(x > '-9223372036854775808'::bigint AND x <= 0)"),
    ];
    for (arc, condition) in conditions {
        assert_eq!(arc.sql_condition("x"), condition);
    }
}
