//! Key derivation by a pseudorandom function (PKCS#11 3.1, section 6.42; NIST SP 800-108): HMAC or CMAC
//! over a counter, over what came out last, or over a second pipeline, and what the caller says goes
//! with it.

use cryptoki_sys::{
    CK_DERIVED_KEY, CK_FALSE, CK_INVALID_HANDLE, CK_MECHANISM, CK_MECHANISM_TYPE, CK_OBJECT_HANDLE,
    CK_PRF_DATA_PARAM, CK_SP800_108_BYTE_ARRAY, CK_SP800_108_COUNTER, CK_SP800_108_COUNTER_FORMAT,
    CK_SP800_108_DKM_LENGTH, CK_SP800_108_DKM_LENGTH_FORMAT, CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS,
    CK_SP800_108_DKM_LENGTH_SUM_OF_SEGMENTS, CK_SP800_108_FEEDBACK_KDF_PARAMS,
    CK_SP800_108_ITERATION_VARIABLE, CK_SP800_108_KDF_PARAMS, CK_TRUE, CK_ULONG,
    CKR_KEY_SIZE_RANGE, CKR_MECHANISM_PARAM_INVALID,
};
use strongroom::Secret;

use crate::fault::{Answer, Fault};
use crate::foreign::{Foreign, MAX_PARAMETER, bytes_of_pointer, structure};
use crate::macs::Code;
use crate::mechanisms::{Iteration, MECHANISMS, Method};
use crate::parameters::Parameter;
use crate::template::Template;

/// What a caller says of a derivation.
pub(crate) struct Parameters {
    /// The pseudorandom function: an HMAC or CMAC.
    pub(crate) function: Method,
    iteration: Iteration,
    fields: Vec<Field>,
    /// What a feedback begins with.
    iv: Vec<u8>,
    /// Keys that are derived besides the one that the function answers with.
    pub(crate) more: Vec<Further>,
}

/// A key of a derivation.
pub(crate) struct Further {
    pub(crate) template: Template,
    /// Where the caller wants its handle.
    pub(crate) handle: Foreign<CK_OBJECT_HANDLE>,
}

/// A part of what the function is computed over.
enum Field {
    /// What is iterated; of a counter, how it is written.
    Variable(Option<Number>),
    /// A counter beside that.
    Counter(Number),
    /// How long all keys are, in bits.
    Len { of_segments: bool, number: Number },
    /// What it says.
    Bytes(Vec<u8>),
}

/// How a number is written.
#[derive(Clone, Copy)]
struct Number {
    bytes: usize,
    little_endian: bool,
}

/// The most fields and the most further keys.
const MOST: CK_ULONG = 64;

/// The most that is derived at once, in bytes.
const MOST_BYTES: usize = 1 << 16;

impl Parameters {
    /// # Safety
    /// The mechanism's parameter is the caller's, of the length that it says, and so is what the
    /// parameter points to.
    pub(crate) unsafe fn read(iteration: Iteration, given: &CK_MECHANISM) -> Answer<Self> {
        let (base, iv) = if iteration == Iteration::Feedback {
            // SAFETY: the caller vouches for it.
            let given = unsafe { structure::<CK_SP800_108_FEEDBACK_KDF_PARAMS>(given) }?;
            // SAFETY: the caller vouches for it.
            let iv = unsafe { bytes_of_pointer(given.pIV.cast(), given.ulIVLen, MAX_PARAMETER) }?;
            let base = CK_SP800_108_KDF_PARAMS {
                prfType: given.prfType,
                ulNumberOfDataParams: given.ulNumberOfDataParams,
                pDataParams: given.pDataParams,
                ulAdditionalDerivedKeys: given.ulAdditionalDerivedKeys,
                pAdditionalDerivedKeys: given.pAdditionalDerivedKeys,
            };
            (base, iv)
        } else {
            // SAFETY: the caller vouches for it.
            let base = unsafe { structure::<CK_SP800_108_KDF_PARAMS>(given) }?;
            (base, Vec::new())
        };
        let function = function_of(base.prfType).ok_or_else(invalid)?;
        // SAFETY: the caller vouches for both arrays and what is in them.
        let (fields, more) = unsafe { (read_fields(&base)?, read_more(&base)?) };
        let read = Self {
            function,
            iteration,
            fields,
            iv,
            more,
        };
        read.check()?;
        Ok(read)
    }

    /// What each mode must have and must not (section 6.42.3 to 6.42.6).
    fn check(&self) -> Answer {
        let count = |which: fn(&Field) -> bool| self.fields.iter().filter(|it| which(it)).count();
        let written = count(|it| matches!(it, Field::Variable(Some(_))));
        let unwritten = count(|it| matches!(it, Field::Variable(None)));
        let counters = count(|it| matches!(it, Field::Counter(_)));
        let lens = count(|it| matches!(it, Field::Len { .. }));
        let variable_is_right = match self.iteration {
            Iteration::Counter => (written, unwritten, counters) == (1, 0, 0),
            Iteration::Feedback | Iteration::DoublePipeline => {
                (written, unwritten) == (0, 1) && counters <= 1
            }
        };
        if variable_is_right && lens <= 1 {
            Ok(())
        } else {
            Err(invalid())
        }
    }

    /// Keys of these lengths. No two of them share what one computation of the function came to.
    pub(crate) fn derive(&self, key: &Secret, lens: &[usize]) -> Answer<Vec<Secret>> {
        let too_long = || Fault::Code(CKR_KEY_SIZE_RANGE);
        // So that no sum of them is too large a number.
        if lens.iter().any(|len| *len > MOST_BYTES) {
            return Err(too_long());
        }
        let segment = Code::new(self.function, &Parameter::Nothing, key)?.len();
        let segments: usize = lens.iter().map(|len| len.div_ceil(segment)).sum();
        let bytes: usize = lens.iter().sum();
        let lengths = Lengths {
            of_keys: bytes * 8,
            of_segments: segments * segment * 8,
        };
        if bytes > MOST_BYTES || !self.has_room_for(segments, lengths) {
            return Err(too_long());
        }
        // NIST SP 800-108, sections 5.1 to 5.3.
        let fixed = self.fixed_input(lengths);
        let mut pipeline = Secret::zeroed(segment);
        let mut all = Secret::zeroed(segments * segment);
        for index in 0..segments {
            let (before, rest) = all.expose_mut().split_at_mut(index * segment);
            let variable = match (self.iteration, index) {
                (Iteration::Counter, _) => &[][..],
                (Iteration::Feedback, 0) => &self.iv,
                (Iteration::Feedback, _) => &before[before.len() - segment..],
                (Iteration::DoublePipeline, _) => {
                    let mut code = Code::new(self.function, &Parameter::Nothing, key)?;
                    code.update(if index == 0 {
                        &fixed
                    } else {
                        pipeline.expose()
                    });
                    pipeline.expose_mut().copy_from_slice(&code.finish());
                    pipeline.expose()
                }
            };
            let mut code = Code::new(self.function, &Parameter::Nothing, key)?;
            self.input(index + 1, variable, lengths, &mut |piece| {
                code.update(piece);
            });
            rest[..segment].copy_from_slice(&code.finish());
        }
        let mut start = 0;
        Ok(lens
            .iter()
            .map(|len| {
                let own = Secret::copy_of(&all.expose()[start..start + len]);
                start += len.div_ceil(segment) * segment;
                own
            })
            .collect())
    }

    /// Whether what is written of a counter and of the lengths has room for them: cut, it would be that of
    /// another derivation.
    fn has_room_for(&self, segments: usize, lengths: Lengths) -> bool {
        self.fields.iter().all(|field| match field {
            Field::Variable(Some(number)) | Field::Counter(number) => number.holds(segments),
            Field::Len {
                of_segments,
                number,
            } => number.holds(lengths.of(*of_segments)),
            Field::Variable(None) | Field::Bytes(_) => true,
        })
    }

    /// What the function is computed over, piece by piece.
    fn input(
        &self,
        counter: usize,
        variable: &[u8],
        lengths: Lengths,
        take: &mut dyn FnMut(&[u8]),
    ) {
        for field in &self.fields {
            match field {
                Field::Variable(Some(number)) | Field::Counter(number) => {
                    take(&number.written(counter));
                }
                Field::Variable(None) => take(variable),
                other => other.write_fixed(lengths, take),
            }
        }
    }

    /// What is the same each time, and what a second pipeline begins with.
    fn fixed_input(&self, lengths: Lengths) -> Vec<u8> {
        let mut input = Vec::new();
        for field in &self.fields {
            field.write_fixed(lengths, &mut |piece| input.extend_from_slice(piece));
        }
        input
    }
}

/// How long all keys are, in bits.
#[derive(Clone, Copy)]
struct Lengths {
    of_keys: usize,
    of_segments: usize,
}

impl Lengths {
    fn of(self, segments: bool) -> usize {
        if segments {
            self.of_segments
        } else {
            self.of_keys
        }
    }
}

impl Field {
    fn write_fixed(&self, lengths: Lengths, take: &mut dyn FnMut(&[u8])) {
        match self {
            Self::Variable(_) | Self::Counter(_) => {}
            Self::Len {
                of_segments,
                number,
            } => take(&number.written(lengths.of(*of_segments))),
            Self::Bytes(bytes) => take(bytes),
        }
    }
}

impl Number {
    fn of(bits: CK_ULONG, little_endian: u8, most: CK_ULONG) -> Answer<Self> {
        let little_endian = match little_endian {
            CK_FALSE => false,
            CK_TRUE => true,
            _ => return Err(invalid()),
        };
        if bits == 0 || bits > most || bits % 8 != 0 {
            return Err(invalid());
        }
        Ok(Self {
            bytes: usize::try_from(bits / 8).map_err(|_| invalid())?,
            little_endian,
        })
    }

    /// Whether it has room for a number.
    fn holds(self, number: usize) -> bool {
        let bits = u32::try_from(8 * self.bytes).unwrap_or(u32::MAX);
        (number as u64).checked_shr(bits).unwrap_or(0) == 0
    }

    fn written(self, number: usize) -> Vec<u8> {
        let bytes = (number as u64).to_be_bytes();
        let mut bytes = bytes[bytes.len() - self.bytes..].to_vec();
        if self.little_endian {
            bytes.reverse();
        }
        bytes
    }
}

fn invalid() -> Fault {
    Fault::Code(CKR_MECHANISM_PARAM_INVALID)
}

/// The function of a mechanism that computes codes.
fn function_of(kind: CK_MECHANISM_TYPE) -> Option<Method> {
    MECHANISMS
        .iter()
        .find(|it| it.kind == kind)
        .map(|it| it.method)
        .filter(|method| {
            matches!(
                method,
                Method::Hmac { cut: false, .. } | Method::Cmac { cut: false }
            )
        })
}

/// # Safety
/// As [`Parameters::read`].
unsafe fn read_fields(given: &CK_SP800_108_KDF_PARAMS) -> Answer<Vec<Field>> {
    if given.ulNumberOfDataParams > MOST {
        return Err(invalid());
    }
    // SAFETY: the caller vouches for it.
    let fields = unsafe { Foreign::many(given.pDataParams, given.ulNumberOfDataParams) }
        .map_err(|_| invalid())?;
    (0..fields.len())
        .map(|index| {
            // SAFETY: the caller vouches for it.
            unsafe { read_field(&fields.get(index)) }
        })
        .collect()
}

/// # Safety
/// As [`Parameters::read`].
unsafe fn read_field(given: &CK_PRF_DATA_PARAM) -> Answer<Field> {
    let mechanism = CK_MECHANISM {
        mechanism: 0,
        pParameter: given.pValue,
        ulParameterLen: given.ulValueLen,
    };
    let counter = || {
        // SAFETY: the caller vouches for it.
        let given = unsafe { structure::<CK_SP800_108_COUNTER_FORMAT>(&mechanism) }?;
        Number::of(given.ulWidthInBits, given.bLittleEndian, 32)
    };
    Ok(match given.type_ {
        CK_SP800_108_ITERATION_VARIABLE if given.ulValueLen == 0 => Field::Variable(None),
        CK_SP800_108_ITERATION_VARIABLE => Field::Variable(Some(counter()?)),
        CK_SP800_108_COUNTER => Field::Counter(counter()?),
        CK_SP800_108_DKM_LENGTH => {
            // SAFETY: the caller vouches for it.
            let given = unsafe { structure::<CK_SP800_108_DKM_LENGTH_FORMAT>(&mechanism) }?;
            let of_segments = match given.dkmLengthMethod {
                CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS => false,
                CK_SP800_108_DKM_LENGTH_SUM_OF_SEGMENTS => true,
                _ => return Err(invalid()),
            };
            Field::Len {
                of_segments,
                number: Number::of(given.ulWidthInBits, given.bLittleEndian, 64)?,
            }
        }
        CK_SP800_108_BYTE_ARRAY if given.ulValueLen == 0 => return Err(invalid()),
        CK_SP800_108_BYTE_ARRAY => {
            // SAFETY: the caller vouches for it.
            let bytes = unsafe { bytes_of_pointer(given.pValue, given.ulValueLen, MAX_PARAMETER) }?;
            Field::Bytes(bytes)
        }
        _ => return Err(invalid()),
    })
}

/// # Safety
/// As [`Parameters::read`].
unsafe fn read_more(given: &CK_SP800_108_KDF_PARAMS) -> Answer<Vec<Further>> {
    if given.ulAdditionalDerivedKeys > MOST {
        return Err(invalid());
    }
    // SAFETY: the caller vouches for it.
    let keys: Foreign<CK_DERIVED_KEY> =
        unsafe { Foreign::many(given.pAdditionalDerivedKeys, given.ulAdditionalDerivedKeys) }
            .map_err(|_| invalid())?;
    (0..keys.len())
        .map(|index| {
            let key = keys.get(index);
            // SAFETY: the caller vouches for both.
            let (handle, template) = unsafe {
                (
                    Foreign::one(key.phKey).map_err(|_| invalid())?,
                    Template::read(key.pTemplate, key.ulAttributeCount),
                )
            };
            if template.is_err() {
                handle.set(0, CK_INVALID_HANDLE);
            }
            Ok(Further {
                template: template?,
                handle,
            })
        })
        .collect()
}
