//! `ganger check`: validates all files, the formation and the ports.

use std::io::Write;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{file_locations, identity, json, names, print_error, read};
use crate::cli::{Check, Global};
use crate::notice::escape_controls;
use crate::plan::env::Origin;
use crate::plan::needs::Need;
use crate::plan::ready::Ready;
use crate::plan::{self, Options, Plan, ProcessPlan, formation};

pub(super) fn check(global: &Global, check: Check) -> anyhow::Result<u8> {
    let locations = file_locations(global);
    let sources = read(&locations)?;
    let identity = identity(global, &locations, &sources.root);
    let options = Options { identity, ..check.plan.options()? };
    let plan = match Plan::new(&sources, &options) {
        // It is valid, though there is nothing to start.
        Err(plan::Error::Formation(formation::Error::OnlyRelease)) => {
            Plan::for_run(&sources, &options, "release.1", Some("release"))
        }
        plan => plan,
    }?;
    plan.check_folders()?;
    let text = if check.output.json {
        json::to_text(describe(&plan))
    } else if check.explain {
        explain(&plan)
    } else {
        format!("valid procfile detected ({})\n", names(&plan))
    };
    std::io::stdout().write_all(text.as_bytes())?;
    // In the JSON it is a field.
    for advice in plan.advice.iter().filter(|_| !check.output.json) {
        print_error(advice);
    }
    Ok(0)
}

/// The process's dependencies, needs and readiness probe, one line for each that is set.
fn conditions(process: &ProcessPlan) -> impl Iterator<Item = String> {
    let ready = match &process.ready {
        Ready::Started => None,
        Ready::Port => Some("its port is bound".to_owned()),
        Ready::Http(path) => Some(format!("GET {path} is answered")),
        Ready::Log(text) => Some(format!("it writes `{text}`")),
        Ready::Command(command) => Some(format!("`{command}` exits with 0")),
        Ready::Exit => Some("it has exited with 0".to_owned()),
    };
    let fail = process.fail.as_ref().map(|pattern| format!("it writes `{}`", pattern.regex()));
    let list = |names: Vec<String>| (!names.is_empty()).then(|| names.join(", "));
    [
        ("after", list(process.after.clone())),
        ("needs", list(process.needs.iter().map(Need::to_string).collect())),
        ("ready", ready.map(|when| format!("when {when}"))),
        ("fails", fail.map(|when| format!("when {when}"))),
        ("watches", list(process.watch.clone())),
    ]
    .into_iter()
    .filter_map(|(what, text)| text.map(|text| format!("  {what:<8} {text}")))
}

/// Every process as JSON, without its variables.
fn describe(plan: &Plan) -> Value {
    let process = |process: &Arc<ProcessPlan>| {
        let ready = match &process.ready {
            Ready::Started => Value::Null,
            Ready::Port => json!({ "port": true }),
            Ready::Http(path) => json!({ "http": path }),
            Ready::Log(text) => json!({ "log": text }),
            Ready::Command(command) => json!({ "command": command }),
            Ready::Exit => json!({ "exit": true }),
        };
        json!({
            "name": process.name,
            "type": process.process_type,
            "command": process.command,
            "dir": process.dir.display().to_string(),
            "port": process.port,
            "after": process.after,
            "needs": process.needs.iter().map(Need::to_string).collect::<Vec<_>>(),
            "ready": ready,
            "fail": process.fail.as_ref().map(|pattern| json!({ "log": pattern.regex().as_str() })),
            "watch": process.watch,
        })
    };
    json!({
        "root": plan.root.display().to_string(),
        "procfile": plan.procfile,
        "types": plan.types(),
        "processes": plan.processes.iter().map(process).collect::<Vec<_>>(),
        "advice": plan.advice.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// Every process with its command, folder and variables. Values from files and from the
/// environment may be secrets and are not shown.
fn explain(plan: &Plan) -> String {
    let mut text = String::new();
    let mut add = |line: String| {
        text.push_str(&escape_controls(&line));
        text.push('\n');
    };
    for process in &plan.processes {
        add(process.name.clone());
        add(format!("  command  {}", process.command));
        add(format!("  folder   {}", process.dir.display()));
        if let Some(port) = process.port {
            add(format!("  port     {port}"));
        }
        conditions(process).for_each(&mut add);
        for (key, var) in process.environment() {
            let key = key.display();
            match var.origin {
                Origin::Environment
                    if plan.env_conflicts.iter().any(|conflict| *conflict == key.to_string()) =>
                {
                    add(format!("  {key} ({}, over a file)", var.origin));
                }
                // Inherited as it is, and not worth a line.
                Origin::Environment => {}
                Origin::Ganger => add(format!("  {key}={}", var.value.display())),
                Origin::File { .. } | Origin::Config => add(format!("  {key} ({})", var.origin)),
            }
        }
    }
    text
}
