//! Recovery copies after a batch: each dataset carries one of the key that turned out to be its
//! own. What goes wrong here is said, and is no reason to fail.

use strongroom::Unlocked;

use super::plan::{CopyState, Plan};
use crate::copy;

pub(super) fn bring_up_to_date(plan: &mut Plan, unlocked: &Unlocked) {
    for (name, item) in &mut plan.items {
        let Some(object) = &item.copied else {
            continue;
        };
        item.copy_state = match copy::text(unlocked, &[object]) {
            Ok(text) if item.copy.as_deref() == Some(text.as_str()) => CopyState::UpToDate,
            Ok(text) => match copy::put(name, &text) {
                Ok(()) => CopyState::Written,
                Err(failure) => CopyState::Failed(failure.to_string()),
            },
            Err(failure) => CopyState::Failed(failure.to_string()),
        };
        if let CopyState::Failed(reason) = &item.copy_state {
            log::warn!("{name}: its recovery copy was not written: {reason}");
        }
    }
}
