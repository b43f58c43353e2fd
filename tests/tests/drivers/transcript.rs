//! What a driver saw, step by step, and whether it saw the same through the gateway as of one PostgreSQL.
//!
//! A transcript is lines. `== step NAME` begins what must be equal; `== refused NAME` what the gateway must refuse with 0A000 and
//! PostgreSQL must do; `== known NAME` a difference that README's limits tell of, which must be there; `== end` is the last line.

use std::fmt::{Display, Write as _};
use std::future::Future;

use anyhow::{bail, ensure, Context as _, Result};

/// Lines that are shown of each side of a difference.
const LINES_SHOWN: usize = 14;
const REFUSAL: &str = "0A000 ";
/// What the scripts print for an error that no step expects, and for a refusal that does not say why.
const UNEXPECTED: &str = "  RAISED ";
const UNEXPLAINED: &str = "WITHOUT DETAIL OR HINT";

/// What a driver in this process saw.
#[derive(Default)]
pub struct Transcript(String);

impl Transcript {
    fn show(&mut self, value: impl Display) {
        let _ = writeln!(self.0, "  {value}");
    }

    pub async fn step(&mut self, name: &str, body: impl Future<Output = Result<Vec<String>>>) {
        let _ = writeln!(self.0, "== step {name}");
        self.body(body).await;
    }

    async fn body(&mut self, body: impl Future<Output = Result<Vec<String>>>) {
        match body.await {
            Ok(lines) => lines.iter().for_each(|line| self.show(line)),
            Err(error) => self.show(format_args!("{}{error:#}", UNEXPECTED.trim_start())),
        }
    }

    pub fn end(mut self) -> String {
        self.0.push_str("== end\n");
        self.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Step,
    Refused,
    Known,
}

#[derive(Debug)]
struct Step {
    kind: Kind,
    name: String,
    lines: Vec<String>,
}

#[derive(Debug, Default)]
pub struct Comparison {
    pub equal: usize,
    pub refused: Vec<String>,
    pub known: Vec<String>,
    pub differences: Vec<String>,
}

fn parse(text: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        let Some(mark) = line.strip_prefix("== ") else {
            let step = steps.last_mut().with_context(|| format!("a line before the first step: {line}"))?;
            step.lines.push(line.to_owned());
            continue;
        };
        if mark == "end" {
            return Ok(steps);
        }
        let (kind, name) = mark.split_once(' ').with_context(|| format!("a mark without a name: {line}"))?;
        let kind = match kind {
            "step" => Kind::Step,
            "refused" => Kind::Refused,
            "known" => Kind::Known,
            other => bail!("an unknown mark: {other}"),
        };
        steps.push(Step { kind, name: name.to_owned(), lines: Vec::new() });
    }
    bail!("the transcript has no end; its last step is {:?}", steps.last().map(|step| &step.name))
}

/// Of the transcripts of one PostgreSQL and of the gateway.
pub fn compare(postgres: &str, gateway: &str) -> Result<Comparison> {
    let (postgres, gateway) = (parse(postgres).context("PostgreSQL")?, parse(gateway).context("gateway")?);
    let names = |steps: &[Step]| steps.iter().map(|step| step.name.clone()).collect::<Vec<_>>();
    ensure!(
        names(&postgres) == names(&gateway),
        "not the same steps: {:?} and {:?}",
        names(&postgres),
        names(&gateway)
    );
    let mut comparison = Comparison::default();
    for (one, other) in postgres.into_iter().zip(gateway) {
        let failed = one.lines.iter().any(|line| line.starts_with(UNEXPECTED));
        let fault = match one.kind {
            _ if failed => Some("PostgreSQL fails"),
            Kind::Step if one.lines == other.lines => {
                comparison.equal += 1;
                None
            }
            Kind::Step => Some("differs"),
            Kind::Refused if refuses(&one) => Some("PostgreSQL refuses it"),
            Kind::Refused if refuses(&other) => {
                comparison.refused.push(format!("{}: {}", one.name, refusal(&other)));
                None
            }
            Kind::Refused => Some("is not refused with 0A000, a detail and a hint"),
            Kind::Known if one.lines == other.lines => Some("is equal now: make it a step"),
            Kind::Known => {
                comparison.known.push(one.name.clone());
                None
            }
        };
        if let Some(fault) = fault {
            comparison.differences.push(shown(&one, &other, fault));
        }
    }
    Ok(comparison)
}

fn refuses(step: &Step) -> bool {
    step.lines.iter().any(|line| line.contains(REFUSAL)) && !step.lines.iter().any(|line| line.contains(UNEXPLAINED))
}

fn refusal(step: &Step) -> &str {
    step.lines.iter().find_map(|line| line.split_once(REFUSAL)).map_or("", |(_, message)| message)
}

fn shown(postgres: &Step, gateway: &Step, fault: &str) -> String {
    let alike = postgres.lines.iter().zip(&gateway.lines).take_while(|(one, other)| one == other).count();
    let mut text = format!("\"{}\" {fault}", postgres.name);
    for (who, step) in [("PostgreSQL", postgres), ("gateway", gateway)] {
        text.push_str(&format!("\n    {who}, from line {}:", alike + 1));
        for line in step.lines.iter().skip(alike).take(LINES_SHOWN) {
            text.push_str(&format!("\n      {line}"));
        }
    }
    text
}

#[test]
fn equal_steps_refusals_and_known_differences_are_counted() -> Result<()> {
    let postgres = "== step a\n  1\n== refused b\n  done\n== known c\n  x\n== end\n";
    let gateway = "== step a\n  1\n== refused b\n  0A000 not so\n== known c\n  y\n== end\n";
    let comparison = compare(postgres, gateway)?;
    ensure!(comparison.equal == 1 && comparison.differences.is_empty(), "{comparison:?}");
    ensure!(comparison.refused == ["b: not so"] && comparison.known == ["c"], "{comparison:?}");
    Ok(())
}

#[test]
fn what_differs_is_told() -> Result<()> {
    for (postgres, gateway, told) in [
        ("== step a\n  1\n== end", "== step a\n  2\n== end", "differs"),
        ("== step a\n  RAISED x\n== end", "== step a\n  RAISED x\n== end", "PostgreSQL fails"),
        ("== refused a\n  done\n== end", "== refused a\n  done\n== end", "is not refused"),
        ("== refused a\n  done\n== end", "== refused a\n  0A000 no WITHOUT DETAIL OR HINT\n== end", "is not refused"),
        ("== refused a\n  0A000 no\n== end", "== refused a\n  0A000 no\n== end", "PostgreSQL refuses it"),
        ("== known a\n  1\n== end", "== known a\n  1\n== end", "is equal now"),
    ] {
        let comparison = compare(postgres, gateway)?;
        let [difference] = comparison.differences.as_slice() else { bail!("{gateway}: {comparison:?}") };
        ensure!(difference.contains(told) && comparison.equal == 0, "{difference}");
    }
    for (postgres, gateway) in [
        ("== step a\n", "== step a\n"),
        ("== step a\n== end", "== step b\n== end"),
        ("== step a\n== end", "== end"),
        ("x\n== end", "x\n== end"),
    ] {
        ensure!(compare(postgres, gateway).is_err(), "{postgres:?} and {gateway:?}");
    }
    Ok(())
}
