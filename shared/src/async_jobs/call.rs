//! What waits in the queue of webhooks: whom to tell of which end. The address and the secret stand in the record.

use serde::{Deserialize, Serialize};

use crate::codec::Wire;
use crate::ids::{JobId, TenantName};

/// One message of the queue `FOREBAY_WEBHOOKS`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    pub tenant: TenantName,
    pub job: JobId,
    pub generation: u32,
}

impl Wire for Call {}

impl Call {
    /// Identifies this message to the broker, in each round of calls: a repeat within its window is stored once.
    pub fn message_id(&self, round: u64) -> String {
        let Self { job, generation, .. } = self;
        match round {
            0 => format!("{job}:{generation}:webhook"),
            round => format!("{job}:{generation}:webhook:again{round}"),
        }
    }

    /// The same for every try of the same call: what its receiver may tell repeats by.
    pub fn id(&self) -> String {
        format!("msg_{}_{}", self.job, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};
    use crate::ids::hex;

    #[test]
    fn the_bytes_of_version_1_are_frozen() {
        let call = Call { tenant: TenantName::default(), job: JobId::from_bytes([2; 16]), generation: 1 };
        let bytes = encode(&call).unwrap();
        assert_eq!(hex(&bytes), "0193a764656661756c74c4100202020202020202020202020202020201");
        assert_eq!(decode::<Call>(&bytes).unwrap(), call);
    }
}
