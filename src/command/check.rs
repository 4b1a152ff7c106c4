//! `ganger check`: is everything there and does it fit together?

use std::fmt::Write as _;
use std::io::Write as _;

use super::{names, read};
use crate::cli::{Check, Global};
use crate::plan::Plan;
use crate::plan::env::Origin;

pub(super) fn check(global: &Global, check: Check) -> anyhow::Result<u8> {
    let plan = Plan::new(&read(global)?, &check.formed.options()?)?;
    let text = if check.explain {
        explain(&plan)
    } else {
        format!("valid procfile detected ({})\n", names(&plan))
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}

/// Every process with all that it gets. Values that come from a file or from the
/// environment may be secrets, and stay where they are.
fn explain(plan: &Plan) -> String {
    let mut text = String::new();
    for process in &plan.processes {
        let _ = writeln!(text, "{}", process.name);
        let _ = writeln!(text, "  command  {}", process.command);
        let _ = writeln!(text, "  folder   {}", process.dir.display());
        if let Some(port) = process.port {
            let _ = writeln!(text, "  port     {port}");
        }
        for (key, var) in process.environment() {
            let key = key.display();
            let _ = match var.origin {
                Origin::Environment
                    if plan.clashes.iter().any(|clash| *clash == key.to_string()) =>
                {
                    writeln!(text, "  {key} ({}, over a file)", var.origin)
                }
                // Not worth a line each: nobody would look for them here.
                Origin::Environment => Ok(()),
                Origin::Ganger => writeln!(text, "  {key}={}", var.value.display()),
                Origin::File { .. } | Origin::Config => writeln!(text, "  {key} ({})", var.origin),
            };
        }
    }
    text
}
