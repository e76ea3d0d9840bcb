//! Where a value stands on an axis, and which places of the axis are named. Knows neither units nor drawing.

/// Of values: from below to above.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// From 0, with a name at every step.
    Linear { step: f64, steps: u32 },
    /// Powers of ten, with a name at each, or at every second one.
    Log { low: i32, high: i32 },
}

/// What lies so far apart cannot be read on a linear scale.
const LOG_FROM_RATIO: f64 = 100.0;

/// Whatever is smaller than a millionth of the largest value is at the bottom.
const DECADES_MAX: i32 = 6;

impl Scale {
    /// One that has room for all of them. `may_be_log`: where values are of different orders of magnitude.
    pub fn of(values: impl Iterator<Item = f64>, may_be_log: bool) -> Scale {
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| value.is_finite() && *value > 0.0) {
            (least, most) = (least.min(value), most.max(value));
        }
        if may_be_log && most >= least * LOG_FROM_RATIO {
            let high = most.log10().ceil() as i32;
            return Scale::Log { low: (least.log10().floor() as i32).max(high - DECADES_MAX), high };
        }
        if most <= 0.0 {
            return Scale::Linear { step: 1.0, steps: 1 };
        }
        let step = rounded_up(most / 5.0);
        // The division of a multiple may end a little above it.
        let steps = (most / step - 1e-9).ceil().max(1.0) as u32;
        Scale::Linear { step, steps }
    }

    /// 0 is below, 1 is above.
    pub fn place(self, value: f64) -> f64 {
        let place = match self {
            Scale::Linear { step, steps } => value / (step * f64::from(steps)),
            Scale::Log { .. } if value <= 0.0 => 0.0,
            Scale::Log { low, high } => (value.log10() - f64::from(low)) / f64::from(high - low),
        };
        place.clamp(0.0, 1.0)
    }

    /// The values that are named, from below.
    pub fn ticks(self) -> Vec<f64> {
        match self {
            Scale::Linear { step, steps } => (0..=steps).map(|n| f64::from(n) * step).collect(),
            Scale::Log { low, high } => {
                let every = if high - low > 4 { 2 } else { 1 };
                // The highest has its name, whatever the others are.
                let named = (low..=high).filter(|power| (high - power) % every == 0);
                named.map(|power| 10f64.powi(power)).collect()
            }
        }
    }
}

/// The next of 1, 2, 5, 10, …
fn rounded_up(value: f64) -> f64 {
    let unit = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|times| times * unit)
        .find(|round| *round >= value * (1.0 - 1e-9))
        .unwrap_or(10.0 * unit)
}

/// The seconds that are named on an axis of time, at most seven.
pub fn times(end: f64) -> Vec<f64> {
    const STEPS: [u32; 16] = [1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400];
    if !end.is_finite() || end <= 0.0 {
        return vec![0.0];
    }
    let step = STEPS.into_iter().map(f64::from).find(|step| end / step <= 6.0).unwrap_or(end / 6.0);
    (0..=6).map(|n| f64::from(n) * step).filter(|second| *second <= end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64], may_be_log: bool) -> Scale {
        Scale::of(values.iter().copied(), may_be_log)
    }

    #[test]
    fn steps_are_round_and_hold_everything() {
        for (most, step, steps) in [
            (1.0, 0.2, 5),
            (4.0, 1.0, 4),
            (9.0, 2.0, 5),
            (10.0, 2.0, 5),
            (11.0, 5.0, 3),
            (2400.0, 500.0, 5),
            (12_400.0, 5000.0, 3),
            (0.3, 0.1, 3),
        ] {
            let Scale::Linear { step: found, steps: n } = of(&[0.0, most], true) else { panic!("{most}: a log scale") };
            assert!((found - step).abs() < 1e-9 && n == steps, "{most}: {n} steps of {found}");
        }
    }

    #[test]
    fn what_lies_far_apart_is_on_a_log_scale() {
        let far = [0.8, 5_000.0];
        assert_eq!(of(&far, true), Scale::Log { low: -1, high: 4 });
        assert!(matches!(of(&far, false), Scale::Linear { .. }));
        assert!(matches!(of(&[1.0, 99.0], true), Scale::Linear { .. }));
        assert_eq!(of(&[1e-12, 1e3], true), Scale::Log { low: -3, high: 3 });
    }

    #[test]
    fn places_are_between_bottom_and_top() {
        let log = Scale::Log { low: 0, high: 4 };
        assert_eq!([0.0, 0.5, 1.0, 100.0, 1e4, 1e9].map(|v| log.place(v)), [0.0, 0.0, 0.0, 0.5, 1.0, 1.0]);
        let linear = Scale::Linear { step: 5.0, steps: 2 };
        assert_eq!([-1.0, 0.0, 5.0, 10.0, 99.0].map(|v| linear.place(v)), [0.0, 0.0, 0.5, 1.0, 1.0]);
        let nothing = of(&[], true);
        assert_eq!((nothing.place(0.0), nothing.ticks()), (0.0, vec![0.0, 1.0]));
    }

    #[test]
    fn ticks_do_not_crowd() {
        assert_eq!(Scale::Log { low: 0, high: 3 }.ticks(), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(Scale::Log { low: -1, high: 4 }.ticks(), [1.0, 100.0, 10_000.0]);
        assert_eq!(times(97.0), [0.0, 20.0, 40.0, 60.0, 80.0]);
        assert_eq!(times(6.0), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(times(0.0), [0.0]);
        assert!((1..100_000).all(|end| (2..=7).contains(&times(f64::from(end)).len())));
    }
}
