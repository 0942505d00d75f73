//! The same as metrics, in Prometheus's text format (exposition_formats, version 0.0.4), as node_exporter's
//! textfile collector reads it: no timestamps, one HELP and TYPE for each metric.

use std::fmt::{Display, Write as _};

use super::standing::{Grade, Standing};
use super::suspensions;
use crate::notes;

pub(super) fn metrics(standing: &Standing) -> String {
    let mut text = Metrics(String::new());
    text.gauge("strongroom_info", "The vault, by its labels.");
    text.value(
        &[
            ("vault", &standing.vault),
            ("version", env!("CARGO_PKG_VERSION")),
        ],
        1,
    );
    text.gauge(
        "strongroom_standing",
        "How things stand: 0 good, 1 attention, 2 trouble.",
    );
    text.value(
        &[],
        match standing.grade() {
            Grade::Good => 0,
            Grade::Attention => 1,
            Grade::Trouble => 2,
        },
    );
    text.gauge(
        "strongroom_status_timestamp_seconds",
        "When this was written.",
    );
    text.value(&[], notes::now());
    policy(standing, &mut text);
    text.gauge("strongroom_objects", "Objects in the vault.");
    for (token, kinds) in &standing.objects {
        for (kind, count) in kinds {
            text.value(&[("token", token), ("kind", kind)], count);
        }
    }
    text.gauge(
        "strongroom_damaged_files",
        "Files of the vault that cannot be used.",
    );
    text.value(&[], standing.listing.damaged.len());
    if let Some(Ok(plaintext)) = &standing.plaintext {
        text.gauge(
            "strongroom_plaintext_values",
            "Values of TrueNAS's database that could be in the vault and are not.",
        );
        for class in &plaintext.classes {
            text.value(&[("class", class.class.as_str())], class.in_plaintext);
        }
        text.gauge(
            "strongroom_enrolled_values",
            "Values of TrueNAS's database that are in the vault.",
        );
        for class in &plaintext.classes {
            text.value(&[("class", class.class.as_str())], class.in_vault);
        }
    }
    if let Some(last) = &standing.last_boot {
        text.gauge(
            "strongroom_last_boot_timestamp_seconds",
            "The last hand-over of dataset keys.",
        );
        text.value(&[], last.at);
        text.gauge(
            "strongroom_last_boot_success",
            "Whether it gave all of them.",
        );
        text.value(&[], u8::from(last.is_good()));
        text.gauge(
            "strongroom_last_boot_keys",
            "How many keys it gave, and failed to give.",
        );
        text.value(&[("outcome", "handed-over")], last.handed_over);
        text.value(&[("outcome", "failed")], last.failed.len());
    }
    if let Some(tested) = &standing.recovery_test {
        text.gauge(
            "strongroom_recovery_test_timestamp_seconds",
            "When the recovery kit was last tried.",
        );
        text.value(&[], tested.at);
        text.gauge(
            "strongroom_recovery_test_failed_objects",
            "What it did not open then.",
        );
        text.value(&[], tested.failed);
    }
    text.0
}

fn policy(standing: &Standing, text: &mut Metrics) {
    text.gauge(
        "strongroom_boot_allowed",
        "Whether the policy allows the present boot.",
    );
    let state = standing.boot.as_ref().ok();
    let allowed = state.is_some_and(|state| state.refusal.is_none());
    text.value(&[], u8::from(allowed));
    text.gauge("strongroom_tpm_up", "Whether the vault's TPM answers.");
    text.value(&[], u8::from(state.is_some()));
    let Some(state) = state else {
        return;
    };
    text.gauge(
        "strongroom_allowed_boots",
        "How many boots the policy allows.",
    );
    text.value(&[], state.branches.count());
    text.gauge(
        "strongroom_suspended_restarts_left",
        "For how many restarts the policy is suspended; 0: it is not.",
    );
    let left = suspensions(state).filter_map(|(_, left)| left).max();
    text.value(&[], left.unwrap_or(0));
}

struct Metrics(String);

impl Metrics {
    /// Begins a metric: what [`Metrics::value`] adds next is its.
    fn gauge(&mut self, name: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge");
    }

    fn value(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let name = self
            .0
            .rsplit("# TYPE ")
            .next()
            .and_then(|rest| rest.split(' ').next());
        let name = name.unwrap_or_default().to_owned();
        let labels: Vec<_> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

/// A label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
