//! Zipf's law: of `ranks` things, the one of rank k has a share that is proportional to 1/k^s. Drawn without a table of all ranks, by
//! rejection-inversion: W. Hörmann, G. Derflinger, *Rejection-inversion to generate variates from monotone discrete distributions*,
//! ACM TOMACS 6(3), 1996.

/// See the module's text.
#[derive(Debug, Clone, PartialEq)]
pub struct Zipf {
    ranks: f64,
    pub exponent: f64,
    /// The integral of the hat at its two ends, and what is accepted at once.
    first: f64,
    last: f64,
    sure: f64,
}

impl Zipf {
    /// `exponent` is above 0; the larger, the more unequal.
    pub fn new(ranks: u64, exponent: f64) -> Zipf {
        let mut zipf = Zipf { ranks: ranks.max(1) as f64, exponent, first: 0.0, last: 0.0, sure: 0.0 };
        zipf.first = zipf.integral(1.5) - 1.0;
        zipf.last = zipf.integral(zipf.ranks + 0.5);
        zipf.sure = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.hat(2.0));
        zipf
    }

    /// A rank, from 1. `uniform` draws from [0, 1) as often as it is asked.
    pub fn rank(&self, mut uniform: impl FnMut() -> f64) -> u64 {
        loop {
            let u = self.last + uniform() * (self.first - self.last);
            let x = self.inverse(u);
            let k = (x + 0.5).floor().clamp(1.0, self.ranks);
            if k - x <= self.sure || u >= self.integral(k + 0.5) - self.hat(k) {
                return k as u64;
            }
        }
    }

    fn hat(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// Of the hat from 1 to x, whatever the exponent: (x^(1-s) - 1) / (1 - s), which is ln x where s is 1.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        exp_1m_over((1.0 - self.exponent) * log) * log
    }

    fn inverse(&self, x: f64) -> f64 {
        // Rounding must not go below where a logarithm ends.
        let t = (x * (1.0 - self.exponent)).max(-1.0);
        (ln_1p_over(t) * x).exp()
    }
}

/// (e^x - 1) / x, and 1 at 0.
fn exp_1m_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.exp_m1() / x } else { 1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0)) }
}

/// ln(1 + x) / x, and 1 at 0.
fn ln_1p_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.ln_1p() / x } else { 1.0 - x * (0.5 - x * (1.0 / 3.0 - x * 0.25)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of each rank in many draws against the law, for exponents below, at and above 1.
    #[test]
    fn shares_follow_the_law() {
        for exponent in [0.2, 0.99, 1.0, 1.5, 3.0] {
            let (zipf, mut rng) = (Zipf::new(20, exponent), fastrand::Rng::with_seed(7));
            let mut counts = [0u32; 21];
            (0..400_000).for_each(|_| counts[zipf.rank(|| rng.f64()) as usize] += 1);
            let all: f64 = (1..=20).map(|k| f64::from(k).powf(-exponent)).sum();
            for (k, count) in counts.iter().enumerate().skip(1) {
                let (found, expected) = (f64::from(*count) / 4e5, (k as f64).powf(-exponent) / all);
                assert!((found - expected).abs() < 0.003, "s {exponent}, rank {k}: {found} instead of {expected}");
            }
        }
    }

    #[test]
    fn one_rank_is_always_drawn() {
        let zipf = Zipf::new(1, 1.0);
        assert!((0..100).all(|i| zipf.rank(|| f64::from(i) / 100.0) == 1));
    }
}
