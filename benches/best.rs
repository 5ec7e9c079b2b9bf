//! What choosing the best seats costs by itself: `cargo bench --bench best`.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use frontrow::booking::seats::best::{Ask, Plan, best};
use frontrow::booking::seats::bits::Bits;
use frontrow::catalog::SeatMap;
use frontrow::catalog::domain::Grade;
use frontrow::catalog::layout::{Row, Section};
use frontrow::platform::money::Money;

/// A hall of equal sections.
fn hall(sections: u32, rows: u32, seats: u32) -> anyhow::Result<SeatMap> {
    let rows: Vec<Row> = (0..rows).map(|row| Row { name: row.to_string(), seats }).collect();
    let section = |code: u32| Section {
        code: code.to_string(),
        name: code.to_string(),
        rows: Some(rows.clone()),
        capacity: None,
    };
    let layout: Vec<Section> = (0..sections).map(section).collect();
    let grade = Grade {
        code: "R".into(),
        name: "R".into(),
        price: Money(1),
        sections: layout.iter().map(|section| section.code.clone()).collect(),
    };
    SeatMap::build(&layout, &[grade]).map_err(|problem| anyhow::anyhow!("the map: {problem:?}"))
}

fn taken(map: &SeatMap, mut is_taken: impl FnMut(u32) -> bool) -> Bits {
    let mut taken = Bits::new(map.seats().len());
    for seat in (0..map.seats_total()).filter(|seat| is_taken(*seat)) {
        taken.set(seat);
    }
    taken
}

/// The seats nearest to the stage, as the hall is sold by itself.
fn front_half(map: &SeatMap, plan: &Plan) -> Bits {
    let mut taken = Bits::new(map.seats().len());
    while taken.count() < map.seats_total() / 2 {
        let Some(choice) = best(plan, &taken, Ask { quantity: 4, grade: None }, 0) else { break };
        for seat in choice.seats {
            taken.set(seat);
        }
    }
    taken
}

fn measure(criterion: &mut Criterion, sections: u32, rows: u32, seats: u32) -> anyhow::Result<()> {
    let map = hall(sections, rows, seats)?;
    let plan = Plan::new(&map);
    let mut random = StdRng::seed_from_u64(7);
    let scenes = [
        ("empty", taken(&map, |_| false)),
        ("half of them, scattered", taken(&map, |_| random.random_bool(0.5))),
        ("every second", taken(&map, |seat| seat % 2 == 0)),
        ("the front half", front_half(&map, &plan)),
        ("nearly all", taken(&map, |seat| seat % 200 != 7)),
        ("all", taken(&map, |_| true)),
    ];
    let mut group = criterion.benchmark_group(format!("{} seats", map.seats_total()));
    group.sample_size(50).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    for (name, taken) in &scenes {
        for quantity in [1, 2, 4, 8] {
            let ask = Ask { quantity, grade: Some("R") };
            group.bench_function(format!("{name} taken, {quantity}"), |bencher| {
                bencher.iter(|| best(black_box(&plan), black_box(taken), black_box(ask), 0));
            });
        }
    }
    group.bench_function("plan", |bencher| bencher.iter(|| Plan::new(black_box(&map))));
    group.finish();
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    measure(&mut criterion, 40, 20, 25)?;
    measure(&mut criterion, 70, 25, 40)?;
    criterion.final_summary();
    Ok(())
}
