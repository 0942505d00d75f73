//! The TPM's clock: how often it was reset, and asked for in a policy.

use tss_esapi::Context;
use tss_esapi::interface_types::ArithmeticComparison;
use tss_esapi::interface_types::session_handles::PolicySession;
use tss_esapi::structures::Digest;

use super::Tpm;
use crate::error::Result;
use crate::policy::{Comparison, Suspension};

impl Tpm {
    /// How often the TPM was reset, which every restart of the machine does: TPM2_ReadClock.
    pub(crate) fn resets(&mut self) -> Result<u32> {
        let time = self.without_session("ReadClock", Context::read_clock)?;
        Ok(time.clock_info().reset_count())
    }
}

impl Suspension {
    /// TPM2_PolicyCounterTimer, twice.
    pub(super) fn assert_in(
        self,
        context: &mut Context,
        policy: PolicySession,
    ) -> tss_esapi::Result<()> {
        self.conditions().into_iter().try_for_each(|condition| {
            let operation = match condition.comparison {
                Comparison::Equal => ArithmeticComparison::Eq,
                Comparison::AtMost => ArithmeticComparison::UnsignedLe,
            };
            let operand = Digest::try_from(condition.operand.to_vec())?;
            context.policy_counter_timer(policy, operand, condition.offset, operation)
        })
    }
}
