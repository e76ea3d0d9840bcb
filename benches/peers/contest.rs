//! Several who do the same, in turn, for some rounds: their figures, medians and spread, and ratios within each round.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Outcome;
use super::rounds::{Rounds, load};

/// What a run showed, in the order of the contest's columns; none where it makes no sense.
pub struct Shown {
    pub figures: Vec<Option<f64>>,
    /// What was wrong in the end.
    pub fault: Option<String>,
}

pub struct Column {
    pub name: &'static str,
    pub digits: usize,
}

pub struct Contestant<'a> {
    pub name: String,
    /// One of forebay's, which the others are compared with.
    pub ours: bool,
    pub run: Box<dyn FnMut() -> Outcome<Shown> + 'a>,
}

pub struct Contest<'a> {
    pub title: String,
    pub columns: Vec<Column>,
    /// The ratio is that of this column, and by which word it is called.
    pub compared: usize,
    pub less_is_better: bool,
    pub contestants: Vec<Contestant<'a>>,
}

/// What all contests showed.
#[derive(Default)]
pub struct Report {
    runs: Vec<Value>,
    faults: Vec<String>,
}

impl Report {
    /// Runs a contest, prints each run and then a table.
    pub fn add(&mut self, rounds: usize, mut contest: Contest<'_>) {
        println!("\n## {}\n", contest.title);
        let number = contest.contestants.len();
        // Of each contestant the rounds, of each the columns.
        let mut of: Vec<Vec<Shown>> = (0..number).map(|_| Vec::new()).collect();
        for round in 0..rounds {
            for turn in 0..number {
                let index = (round + turn) % number;
                let load = load();
                let shown = (contest.contestants[index].run)();
                let name = &contest.contestants[index].name;
                // The others' figures are worth having all the same.
                let nothing = contest.columns.iter().map(|_| None).collect();
                let shown = shown.unwrap_or_else(|e| Shown { figures: nothing, fault: Some(e.to_string()) });
                let line = describe(&contest.columns, &shown);
                println!("round {}  {name:<24} {line}   {load}", round + 1);
                self.keep(&contest, round + 1, name, &shown, &load);
                of[index].push(shown);
            }
        }
        println!("\n{}", table(&contest, &of));
    }

    fn keep(&mut self, contest: &Contest<'_>, round: usize, name: &str, shown: &Shown, load: &str) {
        let figures: Map<String, Value> =
            contest.columns.iter().zip(&shown.figures).map(|(c, f)| (c.name.to_owned(), json!(f))).collect();
        self.runs.push(json!({
            "contest": contest.title, "round": round, "contestant": name, "figures": figures, "fault": shown.fault,
            "load": load.trim_matches(['[', ']']),
        }));
        if let Some(fault) = &shown.fault {
            self.faults.push(format!("{}, round {round}, {name}: {fault}", contest.title));
        }
    }

    /// Writes the file, if one was asked for; an error if a run failed, or its table was not as it should be.
    pub fn finish(self, surroundings: &Value, json: Option<&Path>) -> Outcome<()> {
        if let Some(path) = json {
            let all = json!({ "surroundings": surroundings, "runs": self.runs });
            std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
        }
        if self.faults.is_empty() { Ok(()) } else { Err(self.faults.join("\n").into()) }
    }
}

fn describe(columns: &[Column], shown: &Shown) -> String {
    let mut line = String::new();
    for (column, figure) in columns.iter().zip(&shown.figures) {
        if let Some(figure) = figure {
            // Writing to a String cannot fail.
            let _ = write!(line, "{} {figure:.*}   ", column.name, column.digits);
        }
    }
    if let Some(fault) = &shown.fault {
        let _ = write!(line, "WRONG: {fault}");
    }
    line.trim_end().to_owned()
}

fn rounds_of(figures: impl IntoIterator<Item = f64>) -> Rounds {
    let mut rounds = Rounds::default();
    figures.into_iter().for_each(|figure| rounds.push(figure));
    rounds
}

/// Median (least to most) of each column, and of forebay's best against each.
fn table(contest: &Contest<'_>, of: &[Vec<Shown>]) -> String {
    // What was wrong is in no median.
    let compared =
        |shown: &Shown| shown.figures[contest.compared].filter(|_| shown.fault.is_none()).unwrap_or(f64::NAN);
    let median = |index: &usize| rounds_of(of[*index].iter().map(compared).filter(|f| f.is_finite())).median();
    let ours = (0..of.len()).filter(|index| contest.contestants[*index].ours && median(index).is_finite());
    let best = if contest.less_is_better {
        ours.min_by(|a, b| median(a).total_cmp(&median(b)))
    } else {
        ours.max_by(|a, b| median(a).total_cmp(&median(b)))
    };
    // Where forebay itself has failed there are no ratios, whoever they would be with.
    let best = best.unwrap_or(0);
    let word = contest.columns[contest.compared].name;
    let mut text = String::from("| |");
    contest.columns.iter().for_each(|c| text += &format!(" {} |", c.name));
    text += &format!(" {word}: {} ÷ this |\n|---|", contest.contestants[best].name);
    (0..=contest.columns.len()).for_each(|_| text += "---|");
    for (contestant, runs) in contest.contestants.iter().zip(of) {
        text += &format!("\n| {} |", contestant.name);
        for (index, column) in contest.columns.iter().enumerate() {
            let figures: Vec<f64> =
                runs.iter().filter(|shown| shown.fault.is_none()).filter_map(|shown| shown.figures[index]).collect();
            let cell =
                if figures.is_empty() { "–".to_owned() } else { format!("{:.*}", column.digits, rounds_of(figures)) };
            text += &format!(" {cell} |");
        }
        let ratios = of[best].iter().zip(runs).map(|(best, this)| compared(best) / compared(this));
        text += &format!(" {:.2} |", rounds_of(ratios.filter(|ratio| ratio.is_finite())));
        let wrong = runs.iter().filter(|shown| shown.fault.is_some()).count();
        if wrong > 0 {
            text += &format!(" WRONG in {wrong} of {} rounds", runs.len());
        }
    }
    text
}
