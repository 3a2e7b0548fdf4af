//! What was measured, as a table or as one JSON object a line.

use pillarbox::bench::{report::number, usage::Machine};
use serde_json::json;

/// What a figure is wanted to be.
#[derive(Debug, Clone, Copy)]
pub enum Aim {
    /// At least so much of its baseline.
    Ratio(f64),
    AtLeast(f64),
    AtMost(f64),
    /// At most so many times its baseline.
    RatioAtMost(f64),
}

/// One thing, measured once a round.
#[derive(Debug)]
pub struct Figure {
    pub name: String,
    pub unit: &'static str,
    pub values: Vec<f64>,
    /// Its name and its values, round by round, in the same unit.
    pub baseline: Option<(&'static str, Vec<f64>)>,
    pub aim: Option<Aim>,
}

impl Figure {
    pub fn new(name: impl Into<String>, unit: &'static str, values: Vec<f64>) -> Self {
        Self { name: name.into(), unit, values, baseline: None, aim: None }
    }

    pub fn beside(mut self, name: &'static str, values: Vec<f64>) -> Self {
        self.baseline = Some((name, values));
        self
    }

    pub fn aim(mut self, aim: Aim) -> Self {
        self.aim = Some(aim);
        self
    }

    /// The median of the rounds' ratios: both halves of one had the same neighbours.
    fn ratio(&self) -> Option<f64> {
        let (_, base) = self.baseline.as_ref()?;
        Some(median(&self.values.iter().zip(base).map(|(value, base)| value / base).collect::<Vec<_>>()))
    }

    fn verdict(&self) -> Option<(String, bool)> {
        let value = median(&self.values);
        Some(match self.aim? {
            Aim::Ratio(least) => (format!("ratio >= {least}"), self.ratio()? >= least),
            Aim::RatioAtMost(most) => (format!("ratio <= {most}"), self.ratio()? <= most),
            Aim::AtLeast(least) => (format!(">= {} {}", number(least), self.unit), value >= least),
            Aim::AtMost(most) => (format!("<= {} {}", number(most), self.unit), value <= most),
        })
    }
}

pub struct Report {
    json: bool,
}

impl Report {
    pub fn new(json: bool) -> Self {
        let report = Self { json };
        if !json {
            report.row(["figure", "measured", "lowest – highest", "baseline", "ratio", "aim"]);
        }
        report
    }

    pub fn add(&mut self, figure: &Figure) {
        let verdict = figure.verdict();
        if self.json {
            let baseline = figure.baseline.as_ref().map(|(name, values)| {
                json!({ "name": name, "median": median(values), "values": values, "ratio": figure.ratio() })
            });
            let aim = verdict.map(|(text, met)| json!({ "text": text, "met": met }));
            println!(
                "{}",
                json!({ "figure": figure.name, "unit": figure.unit, "median": median(&figure.values),
                        "values": figure.values, "baseline": baseline, "aim": aim })
            );
            return;
        }
        let measured = format!("{} {}", number(median(&figure.values)), figure.unit);
        let (low, high) = figure.values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        let spread = if figure.values.len() > 1 { format!("{} – {}", number(low), number(high)) } else { "".into() };
        let baseline = figure
            .baseline
            .as_ref()
            .map_or(String::new(), |(name, values)| format!("{} {} ({name})", number(median(values)), figure.unit));
        let ratio = figure.ratio().map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let aim = verdict.map_or(String::new(), |(text, met)| format!("{text} {}", if met { "met" } else { "MISSED" }));
        self.row([&figure.name, &measured, &spread, &baseline, &ratio, &aim]);
    }

    /// Cores and load average, so that a reader knows what the figures are worth.
    pub fn machine(&mut self, when: &str) {
        let machine = Machine::now();
        match self.json {
            true => println!("{}", json!({ "machine": when, "cores": machine.cores, "load": machine.load_average })),
            false => println!("machine {when}: {}", machine.text()),
        }
    }

    fn row(&self, [name, measured, spread, baseline, ratio, aim]: [&str; 6]) {
        println!("{name:<44} {measured:>14} {spread:>22}  {baseline:<44} {ratio:>5}  {aim}");
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}
