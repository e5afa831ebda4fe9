# baton_module(NAME DEPS folder... LIBS target... TESTING file... TEST_DEPS folder... TEST_LIBS target...)
#
# Declares src/NAME as the static library baton_NAME from every .cc of the folder, its *_test.cc files as the one test program
# NAME_test, and its *_bench.cc files as the program NAME_bench. DEPS are folders (see the table of arrows in
# docs/ARCHITECTURE.md); LIBS are outside libraries and stay private unless a public header needs them. TESTING names the files that
# only tests use: they are in no product library but in baton_NAME_testing, which other folders' tests take by TEST_DEPS NAME_testing.
function(baton_module name)
  cmake_parse_arguments(arg "" "" "DEPS;LIBS;PUBLIC_LIBS;TESTING;TEST_DEPS;TEST_LIBS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc ${CMAKE_CURRENT_SOURCE_DIR}/*/*.cc)
  set(tests ${sources})
  set(benches ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  list(FILTER benches INCLUDE REGEX "_bench\\.cc$")
  list(FILTER sources EXCLUDE REGEX "_(test|bench)\\.cc$")
  list(TRANSFORM arg_TESTING PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/)
  if(arg_TESTING)
    list(REMOVE_ITEM sources ${arg_TESTING})
  endif()
  list(TRANSFORM arg_DEPS PREPEND baton_)
  list(TRANSFORM arg_TEST_DEPS PREPEND baton_)

  add_library(baton_${name} STATIC ${sources})
  target_include_directories(baton_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(baton_${name} PUBLIC ${arg_DEPS} ${arg_PUBLIC_LIBS} baton_options PRIVATE ${arg_LIBS})

  if(arg_TESTING)
    add_library(baton_${name}_testing STATIC ${arg_TESTING})
    target_link_libraries(baton_${name}_testing PUBLIC baton_${name} PRIVATE ${arg_LIBS})
    list(APPEND arg_TEST_DEPS baton_${name}_testing)
  endif()
  if(tests)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE baton_${name} ${arg_TEST_DEPS} ${arg_LIBS} ${arg_TEST_LIBS} GTest::gmock
                                               GTest::gtest GTest::gtest_main rapidcheck)
    target_compile_definitions(${name}_test PRIVATE BATON_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
    add_test(NAME ${name} COMMAND ${name}_test)
    set_tests_properties(${name} PROPERTIES TIMEOUT 900 LABELS unit)
  endif()
  if(benches)
    add_executable(${name}_bench ${benches})
    target_link_libraries(${name}_bench PRIVATE baton_${name} ${arg_LIBS} benchmark::benchmark benchmark::benchmark_main)
  endif()
endfunction()
