//! Samples, gates, and the Markdown tables that they end up in.

use std::fmt;

/// How a figure is written, and which end of it is the good one.
#[derive(Clone, Copy)]
pub(crate) struct Unit {
    name: &'static str,
    digits: usize,
    better: Better,
}

#[derive(Clone, Copy)]
enum Better {
    Less,
    More,
}

const fn less(name: &'static str, digits: usize) -> Unit {
    Unit { name, digits, better: Better::Less }
}

const fn more(name: &'static str, digits: usize) -> Unit {
    Unit { name, digits, better: Better::More }
}

pub(crate) const SECONDS: Unit = less("s", 3);
pub(crate) const MILLISECONDS: Unit = less("ms", 2);
pub(crate) const MICROSECONDS: Unit = less("µs", 0);
pub(crate) const MIB: Unit = less("MiB", 1);
pub(crate) const MB: Unit = less("MB", 1);
pub(crate) const CPU_SECONDS_PER_GB: Unit = less("CPU-s/GB", 2);
pub(crate) const CPU_MILLISECONDS: Unit = less("CPU-ms", 3);
pub(crate) const SWITCHES: Unit = less("switches", 0);
pub(crate) const GB_PER_SECOND: Unit = more("GB/s", 2);
pub(crate) const TIMES: Unit = more("×", 2);
pub(crate) const TIMES_LONGER: Unit = less("×", 2);

/// What one figure was in each run, in ascending order.
pub(crate) struct Samples(Vec<f64>);

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}

impl Samples {
    /// The value that `percent` of the samples don't exceed; NaN if there is none.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }

    fn min(&self) -> f64 {
        self.percentile(0)
    }

    fn max(&self) -> f64 {
        self.percentile(100)
    }
}

enum Gate {
    Median(f64),
    Best(f64),
    Worst(f64),
}

/// One figure, with its gate if it has one.
pub(crate) struct Row {
    what: String,
    unit: Unit,
    samples: Samples,
    gate: Option<Gate>,
    note: String,
}

impl Row {
    pub(crate) fn new(
        what: impl Into<String>,
        unit: Unit,
        samples: impl IntoIterator<Item = f64>,
    ) -> Self {
        let samples = samples.into_iter().collect();
        Self { what: what.into(), unit, samples, gate: None, note: String::new() }
    }

    /// The median must be no worse than `bound`.
    pub(crate) fn gate_median(self, bound: f64) -> Self {
        Self { gate: Some(Gate::Median(bound)), ..self }
    }

    /// The best run must be no worse than `bound`.
    pub(crate) fn gate_best(self, bound: f64) -> Self {
        Self { gate: Some(Gate::Best(bound)), ..self }
    }

    /// No run must be worse than `bound`.
    pub(crate) fn gate_worst(self, bound: f64) -> Self {
        Self { gate: Some(Gate::Worst(bound)), ..self }
    }

    pub(crate) fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    fn best(&self) -> f64 {
        match self.unit.better {
            Better::Less => self.samples.min(),
            Better::More => self.samples.max(),
        }
    }

    fn worst(&self) -> f64 {
        match self.unit.better {
            Better::Less => self.samples.max(),
            Better::More => self.samples.min(),
        }
    }

    fn verdict(&self) -> String {
        let (which, value, bound) = match self.gate {
            None => return String::new(),
            Some(Gate::Median(bound)) => ("median", self.samples.median(), bound),
            Some(Gate::Best(bound)) => ("best", self.best(), bound),
            Some(Gate::Worst(bound)) => ("worst", self.worst(), bound),
        };
        // NaN, a figure that could not be had, satisfies neither.
        let (sign, pass) = match self.unit.better {
            Better::Less => ('≤', value <= bound),
            Better::More => ('≥', value >= bound),
        };
        let word = if pass { "pass" } else { "**MISS**" };
        format!("{which} {sign} {bound}: {word}")
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Unit { name, digits, .. } = self.unit;
        let (median, best) = (self.samples.median(), self.best());
        let (min, max) = (self.samples.min(), self.samples.max());
        write!(f, "| {} | {name} | {median:.digits$} | {best:.digits$} ", self.what)?;
        write!(f, "| {min:.digits$}..{max:.digits$} | {} | {} |", self.verdict(), self.note)
    }
}

/// Prints one group's table.
pub(crate) fn print(rows: &[Row]) {
    println!("| what | unit | median | best | spread | gate | note |");
    println!("|---|---|---:|---:|---|---|---|");
    for row in rows {
        println!("{row}");
    }
}
