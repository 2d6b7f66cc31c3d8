//! Exact numbers: nothing is rounded.
//!
//! The cost of a number depends on its digits and not on its exponent. Only arithmetic needs the number written out; it
//! accepts numbers far beyond any amount, count or time, and refuses larger ones.

use std::cmp::Ordering;

use num_bigint::{BigInt, BigUint};
use num_rational::BigRational;

/// The maximum number of digits before and after the decimal point in arithmetic.
const MAX_DIGITS: usize = 1000;

/// The largest absolute value of an exponent.
const MAX_EXPONENT: i64 = 999_999_999_999_999_999;

/// The maximum number of bits of a result's numerator and denominator.
const MAX_BITS: u64 = 4096;

/// A decimal number in its canonical form: ±0.digits × 10^exponent, no zero at either end of the digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decimal {
    negative: bool,
    exponent: i64,
    digits: String,
}

impl Decimal {
    /// Parses a JSON number; `None` if its exponent has more than 18 digits, since it could not be compared.
    pub(super) fn of_json(text: &str) -> Option<Self> {
        let unsigned = text.trim_start_matches('-');
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let digits = all.trim_start_matches('0');
        let point = i64::try_from(whole.len()).unwrap_or(0) - i64::try_from(all.len() - digits.len()).unwrap_or(0);
        let digits = digits.trim_end_matches('0').to_owned();
        if digits.is_empty() {
            return Some(Self { negative: false, exponent: 0, digits });
        }
        let exponent: i64 =
            exponent.parse().ok().filter(|exponent| (-MAX_EXPONENT..=MAX_EXPONENT).contains(exponent))?;
        Some(Self { negative: text.starts_with('-'), exponent: exponent + point, digits })
    }

    /// Parses the form that people write: digits with a point anywhere, a sign and an exponent.
    pub(super) fn of_text(text: &str) -> Option<Self> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let digits = mantissa.replacen('.', "", 1);
        let exponent_digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !all_digits(&digits) || !all_digits(exponent_digits) {
            return None;
        }
        let number = Self::of_json(unsigned)?;
        Some(Self { negative: negative && !number.digits.is_empty(), ..number })
    }

    fn of_whole(whole: &impl ToString) -> Option<Self> {
        Self::of_json(&whole.to_string())
    }

    /// The fraction as a decimal, if it has finitely many digits.
    fn of_ratio(ratio: &BigRational) -> Option<Self> {
        // A denominator of n bits that divides a power of ten divides the n-th.
        let places = u32::try_from(ratio.denom().bits()).ok()?;
        let scaled = ratio * BigRational::from_integer(BigInt::from(10).pow(places));
        let number = Self::of_whole(&scaled.is_integer().then(|| scaled.to_integer())?)?;
        Some(if number.is_zero() { number } else { Self { exponent: number.exponent - i64::from(places), ..number } })
    }

    pub(super) fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    pub(super) fn is_negative(&self) -> bool {
        self.negative
    }

    pub(super) fn is_whole(&self) -> bool {
        i64::try_from(self.digits.len()).is_ok_and(|length| length <= self.exponent) || self.is_zero()
    }

    pub(super) fn negated(self) -> Self {
        Self { negative: !self.negative && !self.is_zero(), ..self }
    }

    /// Whether it is a whole multiple of `step`, which is not zero.
    pub(super) fn is_multiple_of(&self, step: &Self) -> bool {
        if self.is_zero() {
            return true;
        }
        // Both as integers times a power of ten, the integers without trailing zeros.
        let end = |number: &Self| number.exponent.saturating_sub_unsigned(number.digits.len() as u64);
        let Ok(zeros) = u64::try_from(end(self).saturating_sub(end(step))) else { return false };
        let (Ok(whole), Ok(step)) = (self.digits.parse::<BigUint>(), step.digits.parse::<BigUint>()) else {
            return false;
        };
        // More zeros than the step has bits add no factor that the step could need.
        let power = BigUint::from(10_u8).modpow(&BigUint::from(zeros.min(step.bits())), &step);
        (whole % &step) * power % step == BigUint::ZERO
    }

    /// The number as a fraction for arithmetic; `None` if it has too many digits.
    fn ratio(&self) -> Option<BigRational> {
        let places = i64::try_from(self.digits.len()).ok()? - self.exponent;
        if self.digits.len() > MAX_DIGITS || places.unsigned_abs() > MAX_DIGITS as u64 {
            return None;
        }
        let digits = if self.is_zero() { BigInt::ZERO } else { self.digits.parse().ok()? };
        let power = BigInt::from(10).pow(u32::try_from(places.unsigned_abs()).ok()?);
        let size = if places < 0 { BigRational::from_integer(digits * power) } else { BigRational::new(digits, power) };
        Some(if self.negative { -size } else { size })
    }

    /// Its digits without an exponent; `None` if there are too many.
    pub(super) fn plain(&self) -> Option<String> {
        let sign = if self.negative { "-" } else { "" };
        let length = i64::try_from(self.digits.len()).ok()?;
        if self.exponent.max(length - self.exponent) > i64::try_from(MAX_DIGITS).ok()? {
            return None;
        }
        let zeros = |count: i64| "0".repeat(usize::try_from(count).unwrap_or(0));
        Some(if self.exponent <= 0 {
            let digits =
                if self.is_zero() { String::new() } else { format!(".{}{}", zeros(-self.exponent), self.digits) };
            format!("{sign}0{digits}")
        } else if self.exponent >= length {
            format!("{sign}{}{}", self.digits, zeros(self.exponent - length))
        } else {
            let (whole, fraction) = self.digits.split_at(usize::try_from(self.exponent).ok()?);
            format!("{sign}{whole}.{fraction}")
        })
    }

    /// The integer part; `None` if it has too many digits.
    fn truncated(&self) -> Option<String> {
        let plain = self.plain()?;
        Some(plain.split('.').next().unwrap_or(&plain).to_owned())
    }

    /// A text that is the same for equal numbers only.
    pub(super) fn canonical(&self) -> String {
        format!("{}{}e{}", if self.negative { "-" } else { "" }, self.digits, self.exponent)
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let size = |number: &Self| (!number.digits.is_empty(), number.exponent);
        let larger = || size(self).cmp(&size(other)).then_with(|| self.digits.cmp(&other.digits));
        match (self.negative, other.negative) {
            (false, false) => larger(),
            (true, true) => larger().reverse(),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A number in a condition. As in CEL, there are signed and unsigned 64-bit integers, and all other numbers, which here are
/// exact.
#[derive(Debug, Clone)]
pub(super) enum Number {
    Int(i64),
    UInt(u64),
    /// Any other number, as written.
    Double(Decimal),
    /// Any other number, as computed.
    Ratio(Box<BigRational>),
}

/// A binary operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Number {
    /// Parses a JSON number: an integer if it has neither point nor exponent and fits into 64 bits. `None` as for
    /// [`Decimal::of_json`].
    pub(super) fn of_json(text: &str) -> Option<Self> {
        let whole = text.parse().map(Self::Int).or_else(|_| text.parse().map(Self::UInt));
        whole.ok().or_else(|| Decimal::of_json(text).map(Self::Double))
    }

    fn decimal(&self) -> Option<Decimal> {
        match self {
            Self::Int(whole) => Decimal::of_whole(whole),
            Self::UInt(whole) => Decimal::of_whole(whole),
            Self::Double(decimal) => Some(decimal.clone()),
            Self::Ratio(ratio) => Decimal::of_ratio(ratio),
        }
    }

    fn ratio(&self) -> Option<BigRational> {
        match self {
            Self::Int(whole) => Some(BigRational::from_integer((*whole).into())),
            Self::UInt(whole) => Some(BigRational::from_integer((*whole).into())),
            Self::Double(decimal) => decimal.ratio(),
            Self::Ratio(ratio) => Some(ratio.as_ref().clone()),
        }
    }

    /// Compares values; `None` if one was computed and the other has too many digits for arithmetic.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(one), Self::Int(other)) => Some(one.cmp(other)),
            (Self::UInt(one), Self::UInt(other)) => Some(one.cmp(other)),
            (Self::Double(one), Self::Double(other)) => Some(one.cmp(other)),
            (Self::Ratio(_), _) | (_, Self::Ratio(_)) => Some(self.ratio()?.cmp(&other.ratio()?)),
            _ => Some(self.decimal()?.cmp(&other.decimal()?)),
        }
    }

    /// The result, if both numbers are of one kind, as CEL requires, and the result is too: `None` if integers
    /// overflow, for a division by zero, and if other numbers grow too large.
    pub(super) fn compute(&self, operator: Operator, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Int(one), Self::Int(other)) => match operator {
                Operator::Add => one.checked_add(*other),
                Operator::Subtract => one.checked_sub(*other),
                Operator::Multiply => one.checked_mul(*other),
                Operator::Divide => one.checked_div(*other),
                Operator::Remainder => one.checked_rem(*other),
            }
            .map(Self::Int),
            (Self::UInt(one), Self::UInt(other)) => match operator {
                Operator::Add => one.checked_add(*other),
                Operator::Subtract => one.checked_sub(*other),
                Operator::Multiply => one.checked_mul(*other),
                Operator::Divide => one.checked_div(*other),
                Operator::Remainder => one.checked_rem(*other),
            }
            .map(Self::UInt),
            (Self::Int(_) | Self::UInt(_), _) | (_, Self::Int(_) | Self::UInt(_)) => None,
            _ => {
                let (one, other) = (self.ratio()?, other.ratio()?);
                let result = match operator {
                    Operator::Add => one + other,
                    Operator::Subtract => one - other,
                    Operator::Multiply => one * other,
                    Operator::Divide if *other.numer() == BigInt::ZERO => return None,
                    Operator::Divide => one / other,
                    Operator::Remainder => return None,
                };
                let fits = result.numer().bits().max(result.denom().bits()) <= MAX_BITS;
                fits.then(|| Self::Ratio(Box::new(result)))
            }
        }
    }

    pub(super) fn negated(self) -> Option<Self> {
        match self {
            Self::Int(whole) => whole.checked_neg().map(Self::Int),
            Self::UInt(_) => None,
            Self::Double(decimal) => Some(Self::Double(decimal.negated())),
            Self::Ratio(ratio) => Some(Self::Ratio(Box::new(-*ratio))),
        }
    }

    /// The integer part.
    fn truncated(&self) -> Option<String> {
        match self {
            Self::Ratio(ratio) => Some(ratio.to_integer().to_string()),
            _ => self.decimal()?.truncated(),
        }
    }

    /// `int(…)`
    pub(super) fn to_int(&self) -> Option<Self> {
        self.truncated()?.parse().ok().map(Self::Int)
    }

    /// `uint(…)`
    pub(super) fn to_uint(&self) -> Option<Self> {
        // A number between -1 and 0 has a sign and the integer part 0.
        let negative = self.compare(&Self::Int(0))?.is_lt();
        if negative { None } else { self.truncated()?.parse().ok().map(Self::UInt) }
    }

    /// `double(…)`
    pub(super) fn to_double(&self) -> Option<Self> {
        match self {
            Self::Ratio(_) => Some(self.clone()),
            _ => self.decimal().map(Self::Double),
        }
    }

    /// `string(…)`: all digits; `None` if there are infinitely many.
    pub(super) fn to_text(&self) -> Option<String> {
        self.decimal()?.plain()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::of_json(text).unwrap()
    }

    fn number(text: &str) -> Number {
        Number::of_json(text).unwrap()
    }

    /// The number as a fraction, computed independently of the code above.
    pub(in crate::policy) fn reference(text: &str) -> BigRational {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits: BigInt = format!("{whole}{fraction}").parse().unwrap();
        let exponent = exponent.parse::<i32>().unwrap() - i32::try_from(fraction.len()).unwrap();
        BigRational::from_integer(digits) * BigRational::from_integer(10.into()).pow(exponent)
    }

    /// Numbers close to one another: large ones, the limits of types, and those one digit away.
    pub(in crate::policy) fn near() -> impl Strategy<Value = String> {
        let base = prop_oneof![
            Just("9007199254740992"),
            Just("9007199254740993"),
            Just("9223372036854775807"),
            Just("9223372036854775808"),
            Just("18446744073709551615"),
            Just("18446744073709551616"),
            Just("123456789012345678901"),
            Just("1"),
            Just("0"),
            Just("10"),
            Just("1000000000000000000000"),
            Just("999999999999999999999"),
        ];
        let tail = prop_oneof![
            Just(String::new()),
            Just(".0".to_owned()),
            Just(".5".to_owned()),
            "\\.[0-9]{1,3}",
            "\\.0{10,40}[01]",
        ];
        let exponent = prop_oneof![3 => Just(String::new()), 1 => (-400..400_i32).prop_map(|e| format!("e{e}")), 1 => (-3..3_i32).prop_map(|e| format!("e{e}"))];
        let sign = prop_oneof![Just(""), Just("-")];
        (sign, base, tail, exponent).prop_map(|(sign, base, tail, exponent)| format!("{sign}{base}{tail}{exponent}"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn numbers_compare_as_fractions_do(one in near(), other in near(), same in any::<bool>()) {
            let other = if same { format!("{one}{}", if one.contains('e') { "" } else { "e0" }) } else { other };
            let expected = reference(&one).cmp(&reference(&other));
            prop_assert_eq!(decimal(&one).cmp(&decimal(&other)), expected);
            prop_assert_eq!(number(&one).compare(&number(&other)), Some(expected));
            let canonical = |text: &str| decimal(text).canonical();
            prop_assert_eq!(canonical(&one) == canonical(&other), expected.is_eq());
            prop_assert_eq!(decimal(&one).is_whole(), reference(&one).is_integer());
        }

        #[test]
        fn multiples_are_those_of_fractions(one in near(), step in "[1-9][0-9]{0,5}(\\.[0-9]{1,3})?(e-?[0-9]{1,2})?", times in any::<Option<u32>>()) {
            let one = times.map_or(one, |times| {
                let product = reference(&step) * BigRational::from_integer(times.into());
                Decimal::of_ratio(&product).unwrap().plain().unwrap()
            });
            let expected = (reference(&one) / reference(&step)).is_integer();
            prop_assert_eq!(decimal(&one).is_multiple_of(&decimal(&step)), expected, "{} {}", one, step);
        }

        #[test]
        fn computing_is_exact(one in near(), other in near()) {
            let double = |text: &str| Number::Double(decimal(text));
            let (a, b) = (reference(&one), reference(&other));
            for (operator, expected) in [
                (Operator::Add, Some(&a + &b)),
                (Operator::Subtract, Some(&a - &b)),
                (Operator::Multiply, Some(&a * &b)),
                (Operator::Divide, (*b.numer() != BigInt::ZERO).then(|| &a / &b)),
            ] {
                let result = double(&one).compute(operator, &double(&other));
                prop_assert_eq!(result.and_then(|result| result.ratio()), expected);
            }
        }

        #[test]
        fn conversions_lose_nothing(one in near()) {
            let number = number(&one);
            let text = number.to_text().unwrap();
            prop_assert_eq!(reference(&text), reference(&one));
            let whole = reference(&one).to_integer();
            let to_int = number.to_int().and_then(|int| int.ratio());
            prop_assert_eq!(to_int, i64::try_from(whole.clone()).ok().map(|int| BigRational::from_integer(int.into())));
            let unsigned = (reference(&one) >= BigRational::from_integer(0.into())).then_some(whole);
            let unsigned = unsigned.and_then(|whole| u64::try_from(whole).ok());
            prop_assert_eq!(number.to_uint().and_then(|uint| uint.ratio()), unsigned.map(|uint| BigRational::from_integer(uint.into())));
            let read = Number::Double(Decimal::of_text(&one).unwrap());
            prop_assert_eq!(read.compare(&number), Some(Ordering::Equal));
        }
    }

    /// Digits are written out only for arithmetic: these would not fit into any memory.
    #[test]
    fn an_exponent_costs_nothing() {
        let number = decimal;
        assert!(
            number("1e-999999999999").cmp(&number("0")).is_gt() && number("-1e999999999").cmp(&number("-1")).is_lt()
        );
        for text in ["1e-1000000000000000000", "1e99999999999999999999", "-1E+99999999999999999999"] {
            assert_eq!(Decimal::of_json(text), None, "{text}");
        }
        assert!(number("0e99999999999999999999").is_zero());
        assert!(number("1e999999999").is_multiple_of(&number("4e-999999999")));
        assert!(
            !number("1e-999999999").is_multiple_of(&number("1")) && number("7e999999999").is_multiple_of(&number("7"))
        );
        assert!(!number("1e999999999").is_multiple_of(&number("3")));
        assert_eq!((number("1e999999999").plain(), number("1e-999999999").ratio()), (None, None));
        let (tiny, one) = (Number::of_json("1e-999999999").unwrap(), Number::of_json("1.0").unwrap());
        assert!(tiny.compute(Operator::Add, &one).is_none() && tiny.to_text().is_none());
        let ratio = one.compute(Operator::Divide, &Number::of_json("3.0").unwrap()).unwrap();
        assert_eq!((ratio.compare(&tiny), ratio.to_text()), (None, None));
    }

    #[test]
    fn numbers_are_parsed_exactly() {
        for (text, plain) in
            [("1.50", "1.5"), ("+.5", "0.5"), ("5.", "5"), ("-1e2", "-100"), ("-0", "0"), ("1E-3", "0.001")]
        {
            assert_eq!(Decimal::of_text(text).and_then(|number| number.plain()).as_deref(), Some(plain), "{text}");
        }
        for text in ["", ".", "-", "e1", "1e", "1e+", "--1", "+-1", "1.2.3", "NaN", "inf", "0x1", " 1", "1_0"] {
            assert_eq!(Decimal::of_text(text), None, "{text}");
        }
    }
}
