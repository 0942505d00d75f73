//! The functions of PKCS#11 3.1, sections 5.8 to 5.20, that this module does not have yet, and
//! those of earlier sections that write: each answers `CKR_FUNCTION_NOT_SUPPORTED`.

use cryptoki_sys::{
    CK_RV, CK_SESSION_HANDLE, CKR_FUNCTION_NOT_PARALLEL, CKR_FUNCTION_NOT_SUPPORTED,
};

/// In a function list: a function of whatever type the list has there that is not supported.
pub(crate) const fn unsupported<F: Function>() -> F {
    F::UNSUPPORTED
}

/// C_GetFunctionStatus and C_CancelFunction, sections 5.20.1 and 5.20.2: legacy functions whose
/// one answer the specification fixes.
pub(crate) unsafe extern "C" fn not_parallel(_session: CK_SESSION_HANDLE) -> CK_RV {
    CKR_FUNCTION_NOT_PARALLEL
}

/// The types of functions that function lists have.
pub(crate) trait Function: Sized {
    /// A function of this type that looks at none of its arguments.
    const UNSUPPORTED: Self;
}

/// For each number of arguments, one function that is generic over their types.
macro_rules! by_number_of_arguments {
    ($($name:ident($($argument:ident),+);)+) => {$(
        impl<$($argument),+> Function for unsafe extern "C" fn($($argument),+) -> CK_RV {
            const UNSUPPORTED: Self = $name::<$($argument),+>;
        }

        unsafe extern "C" fn $name<$($argument),+>($(_: $argument),+) -> CK_RV {
            CKR_FUNCTION_NOT_SUPPORTED
        }
    )+};
}

by_number_of_arguments! {
    of_one(A);
    of_two(A, B);
    of_three(A, B, C);
    of_four(A, B, C, D);
    of_five(A, B, C, D, E);
    of_six(A, B, C, D, E, F);
    of_seven(A, B, C, D, E, F, G);
    of_eight(A, B, C, D, E, F, G, H);
    of_nine(A, B, C, D, E, F, G, H, I);
    of_ten(A, B, C, D, E, F, G, H, I, J);
}
